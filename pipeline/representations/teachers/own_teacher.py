"""A network in memory as a teacher, with a preparation of images; nothing of it is in a file."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image
from torch import Tensor, nn

from pipeline.base.code_digest import source_digest
from pipeline.base.digests import digest, state_digest
from pipeline.base.errors import ConfigError, WeightsMissingError
from pipeline.images.decoding import ImageFile
from pipeline.images.original_view import ImageOptions
from pipeline.images.preparation import OriginalView, Preparation
from pipeline.images.stored_views import StoredView
from pipeline.representations.teachers.frozen import FrozenTeacher, Precision, TeacherOptions

Prepare = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class OwnTeacher:
    """A network that maps what `prepare` makes of images to (B, D)."""

    network: "_OneVectorEach"
    prepare: Prepare | None


@dataclass(frozen=True)
class OwnPreparation:
    """A user's function from a decoded image to a tensor (C, H, W)."""

    prepare: Prepare

    def __call__(self, image: Image.Image) -> Tensor:
        """Return one prepared image (C, H, W), float32."""
        found = self.prepare(image)
        if not isinstance(found, Tensor) or found.ndim != 3:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(
                f"A teacher's preparation turns a PIL image into a tensor (C, H, W); found {shape}."
            )
        return found.float()

    def pixels(self, image: ImageFile) -> Tensor:
        """Return the prepared image: nothing is known of its steps."""
        return self(image.decoded())

    def view(self, image: ImageFile, view: StoredView) -> Tensor:
        """Return what the function makes of a stored view."""
        return self(view.cut(image.decoded()))

    def finish(self, pixels: Tensor) -> Tensor:
        """Return the prepared images as they are."""
        return pixels


# The teachers of this process, by stated name and digest of the weights.
_TEACHERS: dict[tuple[str, str], OwnTeacher] = {}


class OwnTeacherOptions(TeacherOptions):
    """`kind: own_teacher`: a network that was handed over in Python as `mvmr.teacher`.

    It is known by the `name` that its owner states and the digest of its `weights`. A process
    without it can use the stored rows, but not compute any.
    """

    kind: Literal["own_teacher"] = "own_teacher"
    name: str
    weights: str
    precision: Precision = "float32"

    @property
    def in_this_process_only(self) -> bool:
        """Whether other processes cannot build it: always."""
        return True

    def build(self, image: ImageOptions) -> FrozenTeacher:
        """Return the teacher. Raises WeightsMissingError in a process without it."""
        if (self.name, self.weights) not in _TEACHERS:
            raise WeightsMissingError(
                f"The teacher {self.name!r} with the weights {self.weights[:8]} is not in this "
                "process: hand it over by mvmr.teacher(network, prepare, name=...)."
            )
        own = _TEACHERS[self.name, self.weights]
        preparation: Preparation = OriginalView(image)
        if own.prepare is not None:
            preparation = OwnPreparation(own.prepare)
        identity = {"kind": self.kind, "name": self.name, "weights": self.weights}
        return FrozenTeacher(own.network, preparation, identity, self.precision)


def hand_over(network: Any, prepare: Prepare | None, name: str) -> OwnTeacherOptions:
    """Keep a network, or a function, as a teacher of this process, and return its options.

    A copy of the network is used, in evaluation mode, without gradients, so that its weights stay
    those of the digest. Functions have no weights: their `name` alone tells them apart.
    """
    if not name:
        raise ConfigError("A teacher needs the name that its stored rows are known by.")
    network = copy.deepcopy(network).cpu() if isinstance(network, nn.Module) else _Function(network)
    weights = digest([repr(network), state_digest(network)])
    known = _TEACHERS.get((name, weights))
    if known is not None and _differ(known, network):
        raise ConfigError(
            f"Another function was handed over as the teacher {name!r} before: name this one "
            "otherwise, so that their rows are kept apart."
        )
    _TEACHERS[name, weights] = OwnTeacher(_OneVectorEach(network).eval(), prepare)
    return OwnTeacherOptions(name=name, weights=weights)


def _differ(known: OwnTeacher, network: nn.Module) -> bool:
    both = (known.network.network, network)
    if not all(isinstance(one, _Function) for one in both):
        return False
    return source_digest(both[0].call) != source_digest(both[1].call)


class _OneVectorEach(nn.Module):
    """A network that must return one vector for each image, and nothing else."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map prepared images (B, C, H, W) to vectors (B, D); raises ConfigError for other forms.

        Maps are not flattened, since their mean over all places is what mostly is wanted.
        """
        found = self.network(images)
        if not isinstance(found, Tensor) or found.ndim != 2:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(
                f"A teacher must return one tensor (B, D); found {shape} for {len(images)} images. "
                "Hand over a function of it that does, such as lambda x: network(x).mean((2, 3)) "
                "for maps, or lambda x: network(x)[0] for the first of several outputs."
            )
        return found


class _Function(nn.Module):
    """A plain function as a network."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if not callable(call):
            raise ConfigError(
                f"A teacher is a torch.nn.Module or a function; found {type(call).__name__}."
            )
        self.call = call

    def forward(self, images: Tensor) -> Tensor:
        """Map prepared images (B, C, H, W) to vectors (B, D)."""
        return self.call(images)
