"""What all teachers share: a frozen network, its own preparation of images, its identity."""

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.base.arguments import require_floating
from pipeline.base.devices import layout_on
from pipeline.base.errors import ConfigError, WeightsError, WeightsMissingError
from pipeline.base.options import added
from pipeline.base.precision import full_precision
from pipeline.base.text import counted
from pipeline.images.decoding import ImageFile, opened
from pipeline.images.original_view import ImageOptions, eight_bits, standardise
from pipeline.images.preparation import FastPreparation, Preparation
from pipeline.images.stored_views import StoredView
from pipeline.representations.representation import JsonValue, Representation, RepresentationOptions

KERNELS = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)  # that `preparation: fast` has
Precision = Literal["float32", "bfloat16"]
Transform = Callable[[Any], Any]  # of an image, or one step of it
Setting = str | int | float | tuple["Setting", ...] | None


class TeacherOptions(RepresentationOptions):
    """Options whose `build` gives a frozen network; reports recognise teachers by this class."""


class LibraryTeacherOptions(TeacherOptions):
    """Options of teachers whose library prepares images in its own way.

    `preparation: exact` is the library's, bit for bit. `fast` decodes large JPEG files at a reduced
    scale and resizes as the student's views are resized; vectors differ a little, and have an
    identity of their own.
    """

    preparation: Literal["exact", "fast"] = added("exact")

    @property
    def exact(self) -> "LibraryTeacherOptions | None":
        """The same teacher with its library's preparation, if this is another one."""
        if self.preparation == "exact":
            return None
        return self.model_copy(update={"preparation": "exact"})

    def prepared(self, library: "LibraryPreparation") -> tuple[Preparation, JsonValue]:
        """Return the preparation that is asked for, and what identifies it.

        Raises ConfigError if there is no fast one.
        """
        if self.preparation == "exact":
            return library, library.describe()
        fast = library.fast()
        return fast, {
            "fast": 1,
            "decoder": f"simplejpeg {version('simplejpeg')}",
            "interpolation": "bicubic" if fast.cubic else "bilinear",
            **fast.options.model_dump(mode="json"),
        }


class FrozenTeacher(Representation):
    """A frozen network (B, C, H, W) -> (B, D) as a representation.

    It never trains: it stays in evaluation mode and has no gradients. `precision` is that of the
    network's matrix products; vectors are float32. Convolutions run in the layout that is faster:
    on a CPU, with channels last.
    """

    if_mixed: ClassVar[str] = (
        "in evaluation mode, its network must use no statistics of the batch and draw nothing"
    )

    def __init__(
        self,
        network: nn.Module,
        preparation: Preparation,
        identity: Mapping[str, JsonValue],
        precision: Precision,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(requires_grad=False)
        self.preparation = preparation
        self.precision = precision
        self._identity = dict(identity)
        self._layout = torch.contiguous_format
        self.training = False

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a teacher uses fixed batch statistics and no dropout."""
        del mode
        return self

    @torch.no_grad()  # a loss cannot use inference_mode's tensors
    def forward(self, images: Tensor) -> Tensor:
        """Map prepared images (B, C, H, W) to embeddings (B, D), not normalised.

        Raises ArgumentError for images of another form, such as uint8.
        """
        require_floating(images, "A teacher")
        device = images.device
        bfloat16 = torch.autocast(device.type, dtype=torch.bfloat16)
        with bfloat16 if self.precision == "bfloat16" else full_precision(device):
            output = self.network(self._laid_out(images.float()))
        # Some towers return their tokens too; the embedding comes first.
        embedding: Tensor = output[0] if isinstance(output, tuple) else output
        return embedding.flatten(1).to(torch.promote_types(torch.float32, images.dtype))

    def _laid_out(self, images: Tensor) -> Tensor:
        """Return the images in the faster layout, which the weights get too."""
        wanted = layout_on(images.device, self.network)
        if wanted != self._layout:
            with torch.inference_mode(mode=False):
                self.network.to(memory_format=wanted)
            self._layout = wanted
        return images.contiguous(memory_format=wanted)

    def identity(self) -> dict[str, JsonValue]:
        """Kind, model, preprocessing, digest of the weights, precision and library versions."""
        return {**self._identity, "precision": self.precision, "implementation": 1}


class LibraryPreparation:
    """A library's own transform, identified and compared by its settings.

    `make` is an importable function from settings to a transform. The transform is made at the
    first use and is not pickled. Grey images become RGB.

    If it is torchvision's `Compose`, ends with `ToTensor` and `Normalize`, and arithmetic on 8-bit
    images gives the same bits as these two, `finish` does them for a batch, on any device.
    """

    def __init__(
        self,
        make: Callable[[dict[str, Setting]], Transform],
        settings: Mapping[str, object],
    ) -> None:
        self.make = make
        self.settings = tuple((key, _hashable(value)) for key, value in sorted(settings.items()))
        self._parts: _Parts | None = None

    def __call__(self, image: Image.Image) -> Tensor:
        """Return one prepared image (C, H, W), float32."""
        prepared: Tensor = self._made().whole(image)
        return prepared

    def pixels(self, image: ImageFile) -> Tensor:
        """Return the image (C, H, W) before the last two steps, uint8, or after them."""
        parts, decoded = self._made(), image.decoded()
        return self(decoded) if parts.last is None else eight_bits(parts.first(decoded))

    def view(self, image: ImageFile, view: StoredView) -> Tensor:
        """Return a stored view, resized to what the library crops by its kernel.

        If that is not known of its transform, the view is prepared as an image.
        """
        parts, shown = self._made(), view.cut(image.decoded())
        if parts.last is None or parts.geometry is None:
            return self.pixels(opened(shown))
        mode = "L" if len(parts.last[0]) == 1 else "RGB"
        height, width = parts.geometry.size
        return eight_bits(shown.convert(mode).resize((width, height), parts.geometry.kernel))

    def finish(self, pixels: Tensor) -> Tensor:
        """Return prepared images (B, C, H, W), float32."""
        last = self._made().last
        return pixels if last is None else standardise(pixels, *last)

    def _made(self) -> "_Parts":
        if self._parts is None:
            self._parts = _Parts.of(self.make(dict(self.settings)))
        return self._parts

    def __hash__(self) -> int:
        return hash((self.make, self.settings))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LibraryPreparation):
            return NotImplemented
        return (self.make, self.settings) == (other.make, other.settings)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_parts": None}

    def describe(self) -> JsonValue:
        """Return the settings as JSON, for an identity."""
        return {key: _json(value) for key, value in self.settings}

    def fast(self) -> FastPreparation:
        """Return a fast preparation that shows the same part of an image at the same size.

        Raises ConfigError unless the library resizes the shorter side, bicubically or bilinearly,
        crops the centre to a square, and normalises.
        """
        parts = self._made()
        geometry = parts.geometry
        if geometry and parts.last and geometry.kernel in KERNELS and geometry.is_square:
            mean, std = parts.last
            channels: Any = len(mean)
            options = ImageOptions(
                size=geometry.size[0],
                resize=geometry.resize,
                channels=channels,
                mean=mean,
                std=std,
            )
            return FastPreparation(options, cubic=geometry.kernel == Image.Resampling.BICUBIC)
        raise ConfigError(
            "preparation: fast resizes the shorter side (bicubic or bilinear), crops a square from "
            "the centre and normalises. This teacher's library does something else: leave "
            "`preparation` out."
        )


@dataclass(frozen=True)
class _Geometry:
    """The shorter side is resized to `resize`, by a kernel, and the centre (H, W) is cropped."""

    resize: int
    size: tuple[int, int]
    kernel: Image.Resampling

    @property
    def is_square(self) -> bool:
        return self.size[0] == self.size[1]

    @classmethod
    def of(cls, steps: Sequence[object]) -> "_Geometry | None":
        """Return that of a transform's steps, if they are of this kind."""
        from torchvision.transforms import CenterCrop, Resize
        from torchvision.transforms.functional import pil_modes_mapping

        match [step for step in steps if isinstance(step, nn.Module)]:
            case [
                Resize(size=int(resize) | [int(resize)], interpolation=kernel),
                CenterCrop(size=(int(height), int(width))),
            ]:
                return cls(resize, (height, width), Image.Resampling(pil_modes_mapping[kernel]))
        return None


@dataclass(frozen=True)
class _Parts:
    """A transform as a whole, and in two parts: up to 8 bits, and mean and std of the rest.

    `last` is None if it has no such parts, `geometry` if the first part changes images otherwise.
    """

    whole: Transform
    first: Transform
    last: tuple[tuple[float, ...], tuple[float, ...]] | None
    geometry: _Geometry | None

    @classmethod
    def of(cls, transform: Any) -> "_Parts":
        from torchvision.transforms import Compose, Normalize, ToTensor

        steps = transform.transforms if isinstance(transform, Compose) else ()
        match steps:
            case [*first, ToTensor() as to_tensor, Normalize() as normalize]:
                mean, std = (tuple(map(float, v)) for v in (normalize.mean, normalize.std))
                ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
                image = ramp if len(mean) == 1 else Image.merge("RGB", [ramp] * 3)
                if torch.equal(
                    standardise(eight_bits(image), mean, std), normalize(to_tensor(image))
                ):
                    return cls(transform, Compose(first), (mean, std), _Geometry.of(first))
        return cls(transform, transform, None, None)


def in_mode(mode: str) -> Transform:
    """Return a step that converts images to a mode, unless they have it."""
    return lambda image: image if image.mode == mode else image.convert(mode)


def _hashable(value: object) -> Setting:
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(item) for item in value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"A setting is a string, a number or a list of them; found {value!r}.")


def _json(value: Setting) -> JsonValue:
    return [_json(item) for item in value] if isinstance(value, tuple) else value


def library_versions(*distributions: str) -> dict[str, JsonValue]:
    """Return the versions of the libraries that prepare a teacher's images and run it."""
    return {name: version(name) for name in (*distributions, "torchvision", "pillow")}


def mismatch(error: Exception) -> str:
    """Return in one sentence how weights differ from a network, from what torch says of it.

    Any other error is cut to its first line.
    """
    text = str(error)
    missing, unexpected = (
        re.findall(r'"([^"]*)"', match[1])
        if (match := re.search(f"{what} key.*: (.*)", text))
        else []
        for what in ("Missing", "Unexpected")
    )
    shapes = re.findall(r"size mismatch for (\S+):", text)
    named = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    told = [f"{counted(len(n), 'tensors')} {what} ({n[0]})" for what, n in named if n]
    if not told:
        return (text.splitlines() or [type(error).__name__])[0][:400]
    return f"they are of another network: {', '.join(told)}."


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors or a PyTorch file, without running code in it.

    If the file holds it under `state_dict` or `model`, it is unwrapped. Raises WeightsError.
    """
    if not path.is_file():
        raise WeightsMissingError(f"There is no weights file {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{str(path)!r} holds more than weights, or is damaged. It was not loaded, because "
            "that could run code; save only its state dict, preferably as .safetensors."
        ) from error
    except Exception as error:  # both readers raise many kinds of errors
        raise WeightsError(f"The weights file {str(path)!r} cannot be read: {error}.") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{str(path)!r} does not hold a state dict of tensors by name.")
    return state
