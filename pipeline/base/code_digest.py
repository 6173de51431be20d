"""What tells a piece of the user's own code from another: its source, and the values it brings.

A sweep changes the value that a closure captured, a keyword of a partial, an attribute of an object
or a constant of the module, and leaves the source as it was.
"""

import dis
import functools
import inspect
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from enum import Enum
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor, nn

from pipeline.base.digests import digest, state_digest

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_DEPTH = 4  # of values within values that are looked at


def source_digest(code: Any) -> str:
    """Return a SHA-256 (hex) that changes when the source of code does, or a value that it uses.

    Of an object, the source is that of its class, and the values are its attributes; of a network,
    also those of its layers. Of code without a source, such as that of a console, the compiled form
    counts. Values of kinds that are not known count by their type.
    """
    source, values = _source(code), dict(_values(code, _DEPTH))
    return digest([source, values]) if values else source


def _source(code: Any) -> str:
    if isinstance(code, functools.partial):
        return _source(code.func)
    if not (inspect.isclass(code) or inspect.isroutine(code)):
        code = type(code)
    try:
        return digest(inspect.getsource(code))
    except (OSError, TypeError):
        compiled = getattr(code, "__code__", None)
        if compiled is not None:
            return digest([compiled.co_code.hex(), repr(compiled.co_names)])
        # Of a library; what it shows of itself holds an address, which differs in each process.
        return digest([str(getattr(code, "__module__", "")), code.__qualname__])


def _values(code: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the values that code uses and that its source does not state, by name."""
    if isinstance(code, functools.partial):
        yield from _values(code.func, depth)
        yield "arguments", _plain([code.args, code.keywords], depth)
    elif isinstance(code, MethodType):
        yield from _values(code.__func__, depth)
        yield from _values(code.__self__, depth)
    elif isinstance(code, FunctionType):
        yield from _of_function(code, depth)
    elif isinstance(code, nn.Module):
        for place, layer in code.named_modules():
            if not type(layer).__module__.startswith("torch."):  # their text tells all
                own = {n: v for n, v in vars(layer).items() if n not in _OF_EVERY_MODULE}
                yield from ((f"{place}.{n}", _plain(v, depth)) for n, v in own.items())
    elif not inspect.isclass(code) and hasattr(code, "__dict__"):
        yield from ((name, _plain(value, depth)) for name, value in vars(code).items())


def _of_function(code: FunctionType, depth: int) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(code.__code__.co_freevars, code.__closure__ or (), strict=True):
        try:
            yield f"captured {name}", _plain(cell.cell_contents, depth)
        except ValueError:  # not assigned yet
            continue
    for default in (code.__defaults__, code.__kwdefaults__):
        if default:
            yield f"defaults {type(default).__name__}", _plain(default, depth)
    for name in sorted(_names(code.__code__)):
        value = code.__globals__.get(name)
        if isinstance(value, bool | int | float | str | tuple):  # what code changes is no constant
            yield f"global {name}", _plain(value, depth)


def _names(code: CodeType) -> set[str]:
    """Return the names of globals that a function, or a function within it, uses and never sets."""
    inner = (one for one in code.co_consts if isinstance(one, CodeType))
    steps = dis.get_instructions(code)
    own = set(code.co_names) - {s.argval for s in steps if s.opname == "STORE_GLOBAL"}
    return own.union(*map(_names, inner))


def _plain(value: Any, depth: int) -> Any:
    """Return a value as JSON that differs if the value does."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return repr(value)
    if depth == 0:
        return type(value).__qualname__
    if isinstance(value, Mapping):
        return sorted([repr(key), _plain(one, depth - 1)] for key, one in value.items())
    if isinstance(value, tuple | list):
        return [_plain(one, depth - 1) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(digest(_plain(one, depth - 1)) for one in value)
    if isinstance(value, PurePath | Enum):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        found = np.asarray(value)
        if found.dtype == object:
            return _plain(found.tolist(), depth - 1)
        return digest([str(found.dtype), list(found.shape), found.tobytes().hex()])
    if isinstance(value, Tensor):
        return _plain(value.detach().cpu().float().numpy(), depth)
    if isinstance(value, nn.Module):
        return [repr(value), state_digest(value), *sorted(_described(value, depth))]
    if callable(value) and not inspect.isclass(value):
        return [_source(value), *sorted(_described(value, depth))]
    if is_dataclass(value) and not inspect.isclass(value):
        return [type(value).__qualname__, _plain(vars(value), depth - 1)]
    if isinstance(value, SimpleNamespace | Namespace):
        return _plain(vars(value), depth - 1)
    return type(value).__qualname__


def _described(code: Callable[..., Any], depth: int) -> list[list[str]]:
    return [[name, digest(value)] for name, value in _values(code, depth - 1)]
