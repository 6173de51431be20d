"""The interface of a source: named images in splits, read one at a time.

To add one: write a file with an options class (its parameters, and `open`) and a `Source`,
and add a row to `table.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.config import Options, digest

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Item:
    """One image of a source, not yet read.

    `name` is unique within the source and means something to its owner (a relative path);
    `stamp` changes when the content may have changed (size and time of a file).
    """

    name: str
    label: int | None = None
    stamp: str = ""


@dataclass(frozen=True)
class Encoded:
    """The bytes of an image file; `extension` is jpg, png or webp."""

    data: bytes
    extension: str


class Source(ABC):
    """Images in the splits that the source itself defines, in an order that never varies."""

    classes: Sequence[str] | None
    splits: Mapping[Split, Sequence[Item]]

    @abstractmethod
    def read(self, item: Item) -> Encoded:
        """Return one image's file content. Called from several threads at once."""

    def listing_digest(self) -> str:
        """Return a digest of every name, label and stamp, without reading an image."""
        return digest(
            {
                "classes": None if self.classes is None else list(self.classes),
                "splits": {
                    split: [[item.name, item.label, item.stamp] for item in items]
                    for split, items in self.splits.items()
                },
            }
        )


class SourceOptions(Options, ABC):
    """Parameters of one kind of source. A subclass sets `kind: Literal["..."]`."""

    kind: str

    @abstractmethod
    def open(self) -> Source:
        """List the source. Raises DataError if it is missing, empty or inconsistent."""
