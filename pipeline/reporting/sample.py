"""Some images of a run, and every space they are embedded in: what the pictures are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.datasets.source import Split
from pipeline.images.original_view import ImageOptions

STUDENT, UNTRAINED, PIXELS = "student", "untrained", "pixels"


@dataclass(frozen=True)
class Sample:
    """N images (N, C, S, S), uint8, with names, and labels (N,) of `classes`.

    `labels` is None where not every image has exactly one class; `tags` are then the classes of
    each image, none where they are unknown. `spaces` are features (N, D) by name: student,
    untrained, pixels, and each stored feature; row i is image i.
    """

    split: Split
    image: ImageOptions
    images: Tensor
    names: Sequence[str]
    labels: Tensor | None
    classes: Sequence[str]
    spaces: Mapping[str, Tensor]
    tags: Sequence[Sequence[int]] = ()

    def classes_of(self, row: int) -> Sequence[int]:
        """Return the classes of an image."""
        if self.labels is not None:
            return (int(self.labels[row]),)
        return self.tags[row] if self.tags else ()

    def called(self, row: int) -> str | None:
        """Return the names of an image's classes, None without one."""
        names = [class_name(label, self.classes) for label in self.classes_of(row)]
        return ", ".join(names) or None

    def alike(self, row: int, other: int) -> bool | None:
        """Whether two images have a class in common, None where one of them has none."""
        own, others = set(self.classes_of(row)), set(self.classes_of(other))
        return bool(own & others) if own and others else None


def class_name(label: int, classes: Sequence[str]) -> str:
    """Return the name of a class, or its number where it has none."""
    return classes[label] if classes else str(label)


@dataclass(frozen=True)
class Absent:
    """Why there is nothing to show."""

    reason: str
