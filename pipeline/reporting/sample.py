"""Some images of a run, and every space they are embedded in: what the pictures are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.datasets.base import Split
from pipeline.images import ImageOptions

STUDENT, UNTRAINED, PIXELS = "student", "untrained", "pixels"


@dataclass(frozen=True)
class Sample:
    """N images (N, C, S, S), uint8, with names, and labels (N,) of `classes`.

    `labels` is None where not every image has exactly one class. `spaces` are features
    (N, D) by name: student, untrained, pixels, and each stored feature; row i is image i.
    """

    split: Split
    image: ImageOptions
    images: Tensor
    names: Sequence[str]
    labels: Tensor | None
    classes: Sequence[str]
    spaces: Mapping[str, Tensor]

    def called(self, row: int) -> str | None:
        """Return the name of an image's class, None without one."""
        return None if self.labels is None else class_name(int(self.labels[row]), self.classes)


def class_name(label: int, classes: Sequence[str]) -> str:
    """Return the name of a class, or its number where it has none."""
    return classes[label] if classes else str(label)


@dataclass(frozen=True)
class Absent:
    """Why there is nothing to show."""

    reason: str
