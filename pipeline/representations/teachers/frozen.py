"""What all teachers share: a frozen network, its own preparation of images, its identity."""

import pickle
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self

import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.base.arguments import require_floating
from pipeline.base.errors import WeightsError, WeightsMissingError
from pipeline.base.precision import full_precision
from pipeline.images.original_view import Preparation
from pipeline.representations.representation import JsonValue, Representation, RepresentationOptions

Precision = Literal["float32", "bfloat16"]
Setting = str | int | float | tuple["Setting", ...] | None


class TeacherOptions(RepresentationOptions):
    """Options whose `build` gives a frozen network; reports recognise teachers by this class."""


class FrozenTeacher(Representation):
    """A frozen network (B, C, H, W) -> (B, D) as a representation.

    It never trains: it stays in evaluation mode and has no gradients. `precision` is that of the
    network's matrix products; vectors are float32.
    """

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
            output = self.network(images.float())
        # Some towers return their tokens too; the embedding comes first.
        embedding: Tensor = output[0] if isinstance(output, tuple) else output
        return embedding.flatten(1).to(torch.promote_types(torch.float32, images.dtype))

    def identity(self) -> dict[str, JsonValue]:
        """Kind, model, preprocessing, digest of the weights, precision and library versions."""
        return {**self._identity, "precision": self.precision, "implementation": 1}


class LibraryPreparation:
    """A library's own transform, identified and compared by its settings.

    `make` is an importable function from settings to a transform. The transform is made at the
    first use and is not pickled. Grey images become RGB.
    """

    def __init__(
        self,
        make: Callable[[dict[str, Setting]], Callable[[Image.Image], Tensor]],
        settings: Mapping[str, object],
    ) -> None:
        self.make = make
        self.settings = tuple((key, _hashable(value)) for key, value in sorted(settings.items()))
        self._transform: Callable[[Image.Image], Tensor] | None = None

    def __call__(self, image: Image.Image) -> Tensor:
        """Return one prepared image (C, H, W), float32."""
        if self._transform is None:
            self._transform = self.make(dict(self.settings))
        return self._transform(image)

    def __hash__(self) -> int:
        return hash((self.make, self.settings))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LibraryPreparation):
            return NotImplemented
        return (self.make, self.settings) == (other.make, other.settings)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_transform": None}

    def describe(self) -> JsonValue:
        """Return the settings as JSON, for an identity."""
        return {key: _json(value) for key, value in self.settings}


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
