"""A pretended GPU: tensors that say `cuda:0`, hold numbers of the CPU, and obey CUDA's rules.

Within `pretended_gpu()`, `torch.device("cuda")` works on a machine without a GPU:

- operations run on the CPU, so results are numbers, of forward and backward passes alike;
- tensors of both devices in one operation raise, as does `.numpy()`; only numbers (0-dimensional
  CPU tensors) and index tensors may come from the CPU, as on a GPU;
- autocast follows CUDA's lists of operations, and `torch.cuda` reports one device;
- `GPU.waits` counts what makes the host wait for a GPU, by kind and by the project's line: numbers
  read from the device, results whose size the device decides, and copies of memory that is not
  pinned.

It cannot show what kernels compute or how fast, what a GPU's generator draws, memory, several
devices, streams, NCCL, cuDNN, `torch.compile`, extensions that read data pointers, nor files that
hold CUDA tensors (they are saved as CPU tensors). It belongs to the thread that enters it.
"""

import contextlib
import ctypes
import mmap
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

ROOT = Path(__file__).parents[1]
CUDA = torch.device("cuda", 0)
LIBRARIES = "site-packages"  # their lines are not the project's

aten: Any = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
WAITS = {
    aten._local_scalar_dense.default: "a number is read",
    aten.equal.default: "equal",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.bincount.default: "bincount",
    aten.repeat_interleave.Tensor: "repeat_interleave by a tensor",
}
CONVOLUTIONS = {aten.convolution.default, aten.convolution_backward.default}
CHECKS = {aten._assert_tensor_metadata.default}


class GPU:
    """What was counted since `clear`: waits of the host, by kind and line."""

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self._pinned = WeakTensorKeyDictionary()

    def clear(self) -> None:
        """Begin to count anew."""
        self.waits.clear()

    def note(self, kind: str) -> None:
        """Count a wait."""
        self.waits[kind, _line()] += 1

    def pin(self, x: Tensor, device: Any = None) -> Tensor:
        """Return a copy in pretended pinned memory; a pinned tensor is returned as it is."""
        if self.is_pinned(x):
            return x
        copy = x.clone()
        self._pinned[copy] = True
        return copy

    def is_pinned(self, x: Tensor, device: Any = None) -> bool:
        """Whether `pin` returned this tensor, or one that it is a view of."""
        return x in self._pinned or (x._base is not None and x._base in self._pinned)

    def report(self) -> str:
        """Return a line for each place that waited."""
        lines = [f"{n:4} {kind:40} {line}" for (kind, line), n in self.waits.most_common()]
        return "\n".join([f"{self.waits.total()} waits", *lines])


def _line() -> str:
    """Return the innermost line of the project that is being run, tests included."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(str(ROOT)) and LIBRARIES not in name and name != __file__:
            return f"{Path(name).relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "backward"


_gpu = GPU()


class PretendedTensor(Tensor):
    """A tensor on the pretended GPU; `held` holds its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "PretendedTensor":
        """Wrap a tensor of the CPU."""
        made: Any = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=CUDA,
        )
        made.held = held
        tensor: PretendedTensor = made
        return tensor

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Copy to the CPU, below dispatch in torch itself."""
        _gpu.note("tolist")
        return self.held.detach().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"cuda:0 {self.held!r}"

    def __format__(self, specification: str) -> str:
        return format(self.item(), specification) if self.ndim == 0 else repr(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        on_cpu: Any = self.detach().cpu()
        return on_cpu.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Any:
        if id(self) not in memo:
            with torch.no_grad():
                copy = self.detach().clone().requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                copy = torch.nn.Parameter(copy, self.requires_grad)
            memo[id(self)] = copy
        return memo[id(self)]


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Catches operations without a pretended tensor too: those that make or send one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    device = kwargs.get("device")
    asked = None if device is None else torch.device(device)
    there = any(isinstance(x, PretendedTensor) for x in tensors)
    if not there and (asked is None or asked.type != "cuda"):
        return func(*args, **kwargs)
    if func in CHECKS:
        if asked is not None and (asked.type == "cuda") != there:
            raise RuntimeError(f"Expected a tensor on {asked}; found one on the other device.")
        return None
    if there:
        _require_one_device(func, tensors)
        _count(func, args)
    if func in COPIES:
        _count_copy(func, args, kwargs, asked)
    on_cpu = {**kwargs, "device": torch.device("cpu")} if asked is not None else kwargs
    held = _computed(func, _held(args), _held(on_cpu))
    if func is aten.copy_.default:
        return args[0]
    if asked is not None and asked.type != "cuda":
        return held
    in_place, aliases = _facts(func)
    if in_place and "_foreach_" in func._schema.name:
        return None
    out = args[0] if in_place else tree_map(_wrapped, held)
    correct: Any = return_and_correct_aliasing
    return correct(func, args, kwargs, out) if there and aliases else out


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation on the CPU, whose convolutions in float16 are slow: they run in float32."""
    if func not in CONVOLUTIONS or args[0].dtype != torch.float16:
        return func(*args, **kwargs)
    wide = tree_map(lambda x: x.float() if isinstance(x, Tensor) else x, (args, kwargs))
    return tree_map(lambda x: x.half() if isinstance(x, Tensor) else x, func(*wide[0], **wide[1]))


@cache
def _facts(func: Any) -> tuple[bool, bool]:
    """Whether an operation writes to its first argument, and whether a result shares memory."""
    name, schema = func._schema.name, func._schema
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place, any(value.alias_info is not None for value in schema.returns)


def _wrapped(x: Any) -> Any:
    return PretendedTensor(x) if isinstance(x, Tensor) else x


def _held(tree: Any) -> Any:
    return tree_map(lambda x: x.held if isinstance(x, PretendedTensor) else x, tree)


def _require_one_device(func: Any, tensors: list[Tensor]) -> None:
    if func in COPIES:
        return
    for number, x in enumerate(tensors):
        if isinstance(x, PretendedTensor) or x.ndim == 0:
            continue
        if func in INDEXING and number and not x.is_floating_point():
            _gpu.note("an index from the CPU")
            continue
        shapes = [f"{tuple(t.shape)} on {t.device}" for t in tensors]
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! {func}: {', '.join(shapes)}"
        )


def _count(func: Any, args: Any) -> None:
    if func in WAITS:
        _gpu.note(WAITS[func])
    elif func in INDEXING and any(
        isinstance(x, PretendedTensor) and x.dtype in (torch.bool, torch.uint8)
        for x in tree_leaves(args[1])
    ):
        _gpu.note("a mask as an index")


def _count_copy(func: Any, args: Any, kwargs: Any, asked: torch.device | None) -> None:
    if func is aten.copy_.default:
        target, source = args[0], args[1]
        to_gpu = isinstance(target, PretendedTensor)
        non_blocking = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    else:
        source, to_gpu = args[0], asked is not None and asked.type == "cuda"
        non_blocking = bool(kwargs.get("non_blocking", False))
        if asked is None:
            return
    from_gpu = isinstance(source, PretendedTensor)
    if from_gpu and not to_gpu:
        _gpu.note("a copy to the CPU")
    elif to_gpu and not from_gpu and source.ndim and not (non_blocking and _gpu.is_pinned(source)):
        _gpu.note("a copy of memory that is not pinned")


_PROPERTIES = SimpleNamespace(
    name="Pretended GPU", major=9, minor=0, total_memory=80 << 30, multi_processor_count=132
)
_FACTS: dict[str, Any] = {
    "is_available": True,
    "is_initialized": True,
    "is_bf16_supported": True,
    "is_current_stream_capturing": False,
    "device_count": 1,
    "current_device": 0,
    "get_device_name": _PROPERTIES.name,
    "get_device_capability": (9, 0),
    "get_device_properties": _PROPERTIES,
    "mem_get_info": (70 << 30, 80 << 30),
    "max_memory_allocated": 0,
    "memory_allocated": 0,
    "memory_stats": {},
    "get_rng_state_all": [],
    **dict.fromkeys(("init", "_lazy_init", "set_device", "empty_cache", "manual_seed")),
    **dict.fromkeys(("manual_seed_all", "reset_peak_memory_stats", "set_rng_state_all")),
    **dict.fromkeys(("reset_accumulated_memory_stats", "synchronize")),
}


def require_pretence() -> None:
    """Skip the calling test module where a GPU cannot, or need not, be pretended."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU", allow_module_level=True)
    if torch.version.cuda is None or _context_question() is None:
        pytest.skip("needs a build of torch for CUDA, on x86-64", allow_module_level=True)


def _context_question() -> int | None:
    """Return the address of the code by which autograd asks whether a device has a context.

    `c10::cuda::hasPrimaryContext` jumps to it through a pointer: ff 25 and a relative address.
    """
    library = Path(torch.__file__).parent / "lib" / "libc10_cuda.so"
    try:
        jump: Any = ctypes.CDLL(str(library))._ZN3c104cuda17hasPrimaryContextEa
    except (OSError, AttributeError):
        return None
    start = ctypes.cast(jump, ctypes.c_void_p).value or 0
    code = ctypes.string_at(start, 16)
    place = code.find(b"\xff\x25")
    if place < 0:
        return None
    offset = int.from_bytes(code[place + 2 : place + 6], "little", signed=True)
    return int(ctypes.c_uint64.from_address(start + place + 6 + offset).value)


@contextlib.contextmanager
def _no_context() -> Iterator[None]:
    """Let that code answer no: it would load the driver, which is missing."""
    address, answer = _context_question() or 0, b"\x31\xc0\xc3"  # xor eax, eax; ret
    before = ctypes.string_at(address, len(answer))
    _write(address, answer)
    try:
        yield
    finally:
        _write(address, before)


def _write(address: int, code: bytes) -> None:
    page, libc = address & ~(mmap.PAGESIZE - 1), ctypes.CDLL(None)
    size = ctypes.c_size_t(2 * mmap.PAGESIZE)
    if libc.mprotect(ctypes.c_void_p(page), size, 7):  # read, write, execute
        pytest.skip("the code of a library cannot be changed here")
    ctypes.memmove(address, code, len(code))
    libc.mprotect(ctypes.c_void_p(page), size, 5)  # read, execute


@contextlib.contextmanager
def pretended_gpu() -> Iterator[GPU]:
    """Pretend a GPU in this thread."""
    torch._C._ensureCUDADeviceGuardSet()  # a guard that does nothing
    _gpu.clear()
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch, _no_context(), sdpa_kernel(SDPBackend.MATH):
        for name, fact in _FACTS.items():
            patch.setattr(torch.cuda, name, _answering(fact), raising=False)
        patch.setattr(torch.cuda.graphs, "is_current_stream_capturing", _answering(False))
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", _answering(False))
        patch.setattr(torch.backends.cudnn, "enabled", False)
        patch.setattr(Tensor, "pin_memory", lambda x, device=None: _gpu.pin(x, device))
        patch.setattr(Tensor, "is_pinned", lambda x, device=None: _gpu.is_pinned(x, device))
        patch.setattr(torch, "Generator", _Generator)
        # A pretended tensor cannot be an inference tensor.
        patch.setattr(torch, "inference_mode", _inference_mode)
        for name in ("tensor", "as_tensor"):  # they copy to a device below dispatch
            patch.setattr(torch, name, _sending(getattr(torch, name)))
        # `.to` then keeps the Parameter, as it does on CUDA.
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            with torch.autograd.set_multithreading_enabled(False), _Mode():  # type: ignore[no-untyped-call]
                yield _gpu
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swapped)


class _Generator(torch.Generator):
    """A generator of the CPU that says which device was asked for."""

    asked: torch.device

    def __new__(cls, device: Any = "cpu") -> "_Generator":
        """Return a new generator."""
        made: _Generator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        made.asked = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device that was asked for."""
        return self.asked


def _answering(fact: Any) -> Callable[..., Any]:
    def answer(*_: Any, **__: Any) -> Any:
        return fact

    return answer


def _inference_mode(mode: bool = True) -> Any:
    return torch.no_grad() if mode else contextlib.nullcontext()


def _sending(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*args: Any, device: Any = None, **options: Any) -> Tensor:
        new = make(*args, **options)
        return new if device is None else new.to(device)

    return made
