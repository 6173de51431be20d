"""A sample of a run's images, embedded in every space, from which the pictures are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.datasets.source import Split
from pipeline.images.original_view import ImageOptions

STUDENT, START, UNTRAINED, PIXELS = "student", "start", "untrained", "pixels"
SUPERVISED = "supervised"


@dataclass(frozen=True)
class ImageSample:
    """N images (N, C, S, S), uint8, with names and labels (N,), which are indices of `classes`.

    `labels` is None unless every image has exactly one class; otherwise `tags` are the classes of
    each image, empty where unknown. `spaces` are features (N, D) by name: student, untrained,
    start if it began with known weights, pixels, and each stored feature; row i is image i.
    """

    split: Split
    image: ImageOptions
    images: Tensor
    names: Sequence[str]
    labels: Tensor | None
    classes: Sequence[str]
    spaces: Mapping[str, Tensor]
    tags: Sequence[Sequence[int]] = ()

    @property
    def before(self) -> str:
        """The space of the encoder before training, with the weights that it started from."""
        return START if START in self.spaces else UNTRAINED

    def classes_of(self, row: int) -> Sequence[int]:
        """Return the classes of an image."""
        if self.labels is not None:
            return (int(self.labels[row]),)
        return self.tags[row] if self.tags else ()

    def called(self, row: int) -> str | None:
        """Return the names of an image's classes, None if it has no class."""
        names = [class_name(label, self.classes) for label in self.classes_of(row)]
        return ", ".join(names) or None

    def alike(self, row: int, other: int) -> bool | None:
        """Return whether two images share a class, None where one of them has no class."""
        own, others = set(self.classes_of(row)), set(self.classes_of(other))
        return bool(own & others) if own and others else None


def class_name(label: int, classes: Sequence[str]) -> str:
    """Return the name of a class, or its number where it has none."""
    return classes[label] if classes else str(label)


@dataclass(frozen=True)
class Absent:
    """Takes the place of content that cannot be shown; `reason` says why."""

    reason: str
