"""The interface of a source: named images in splits, read one at a time.

To add one, write a file with an options class (its parameters, and `open`) and a `Source`,
and add a row to `sources.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from pipeline.base.digests import digest
from pipeline.base.locations import Location
from pipeline.base.options import Options

JsonLabel = int | dict[str, list[int]] | None
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class MultiLabel:
    """The classes of an image that may show several; both tuples are sorted.

    `present` are in the image; `ignored` count neither as present nor as absent (in VOC, classes
    whose objects are all marked difficult).
    """

    present: tuple[int, ...]
    ignored: tuple[int, ...] = ()


Label = int | MultiLabel


@dataclass(frozen=True)
class Item:
    """One image of a source, not yet read.

    `name` is unique within the source and means something to its owner (a relative path);
    `stamp` changes when the content may have changed (size and time of a file).
    """

    name: str
    label: Label | None = None
    stamp: str = ""


@dataclass(frozen=True)
class Encoded:
    """The bytes of an image file; `extension` is jpg, png or webp."""

    data: bytes
    extension: str


@dataclass(frozen=True)
class Unlisted:
    """What a source holds besides the images that it lists.

    `others` counts the files that are not treated as images, by ending. `copies` counts the images
    in folders that other programs fill with copies, by the names of the folders. `closed` are
    folders that cannot be listed, with the reasons; `empty` are those that would be classes if they
    held an image.
    """

    others: Mapping[str, int] = field(default_factory=dict)
    copies: Mapping[str, int] = field(default_factory=dict)
    closed: Mapping[str, str] = field(default_factory=dict)
    empty: Sequence[str] = ()


class Source(ABC):
    """Images in the splits that the source itself defines, in a fixed order."""

    classes: Sequence[str] | None
    splits: Mapping[Split, Sequence[Item]]
    unlisted: Unlisted = Unlisted()

    @abstractmethod
    def read(self, item: Item) -> Encoded:
        """Return one image's file content. Called from several threads at once."""

    def bytes_of(self, item: Item) -> int:
        """Return the bytes of one image's file, 0 if they are not known without reading it."""
        del item
        return 0

    def listing_digest(self) -> str:
        """Return a digest of every name, label and stamp, without reading an image."""
        return digest(
            {
                "classes": None if self.classes is None else list(self.classes),
                "splits": {
                    split: [[item.name, label_to_json(item.label), item.stamp] for item in items]
                    for split, items in self.splits.items()
                },
            }
        )


def label_to_json(label: Label | None) -> JsonLabel:
    """Return a label as a JSON value."""
    if isinstance(label, MultiLabel):
        return {"present": list(label.present), "ignored": list(label.ignored)}
    return label


def label_from_json(value: JsonLabel) -> Label | None:
    """Invert `label_to_json`; raises KeyError, TypeError or ValueError for any other value."""
    if value is None or isinstance(value, int):
        return value
    present, ignored = (tuple(map(int, value[key])) for key in ("present", "ignored"))
    return MultiLabel(present, ignored)


class SourceOptions(Options, ABC):
    """Parameters of one kind of source. A subclass sets `kind: Literal["..."]`."""

    kind: str

    @abstractmethod
    def open(self) -> Source:
        """List the source. Raises DataError if it is missing, empty or inconsistent."""

    def open_again(self, listings: Location) -> Source:
        """List the source; one that takes long to list remembers below `listings` what it found."""
        del listings
        return self.open()
