"""STL-10: 96 x 96 colour images, 5,000 labelled, 8,000 for testing, and 100,000 unlabelled.

    root/stl10_binary/{train_X,train_y,test_X,test_y,unlabeled_X}.bin, class_names.txt

or the archive `stl10_binary.tar.gz` in `root`. An image is three planes of 96 x 96 bytes in
column-major order; a label is a byte, 1 to 10.

Source: Coates, Lee and Ng 2011, "An Analysis of Single-Layer Networks in Unsupervised Feature
Learning".
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.base.errors import DataError
from pipeline.datasets.files import (
    Archive,
    Download,
    png_of,
    read_bytes,
    read_lines,
    stamp_of,
    unpacked,
)
from pipeline.datasets.source import Encoded, Item, Source, SourceOptions, Split

FOLDER = "stl10_binary"
PLANES = (3, 96, 96)


class Stl10Options(SourceOptions):
    """`dataset.source: {kind: stl10, root: DIR}`; `train` chooses the training images."""

    kind: Literal["stl10"] = "stl10"
    root: str
    train: Literal["train", "unlabeled", "train+unlabeled"] = "train"
    download: Download = False

    def open(self) -> "Stl10":
        """Map the files into memory."""
        return Stl10(Path(self.root), parts=self.train.split("+"), download=self.download)


class Stl10(Source):
    """Colour PNGs; an item's name is its part and its index in the part."""

    classes: tuple[str, ...]

    def __init__(self, root: Path, *, parts: list[str], download: bool) -> None:
        self._folder = unpacked(root, FOLDER, [_archive()], download=download)
        self.classes = tuple(read_lines(self._folder / "class_names.txt", "list of classes"))
        self._images: dict[str, np.ndarray[Any, np.dtype[np.uint8]]] = {}
        self.splits: dict[Split, list[Item]] = {
            "train": [item for part in parts for item in self._items(part)],
            "test": self._items("test"),
        }

    def _items(self, part: str) -> list[Item]:
        path = self._folder / f"{part}_X.bin"
        try:
            self._images[part] = np.memmap(path, np.uint8, "r").reshape(-1, *PLANES)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} is missing or cut short ({error}): unpack the archive again."
            ) from error
        labels = self._labels(part)
        stamp = stamp_of(path)
        return [Item(f"{part}/{i:06d}", label, stamp) for i, label in enumerate(labels)]

    def _labels(self, part: str) -> list[int | None]:
        count = len(self._images[part])
        if part == "unlabeled":
            return [None] * count
        path = self._folder / f"{part}_y.bin"
        labels = [byte - 1 for byte in read_bytes(path)]
        if len(labels) != count or not set(labels) <= set(range(len(self.classes))):
            raise DataError(
                f"{path} does not hold one of {len(self.classes)} classes for each of {count} "
                "images: unpack the archive again."
            )
        return list(labels)

    def read(self, item: Item) -> Encoded:
        """Return one image as a PNG."""
        part, _, place = item.name.partition("/")
        return png_of(np.ascontiguousarray(self._images[part][int(place)].transpose(2, 1, 0)))


def _archive() -> Archive:
    from torchvision.datasets import STL10

    return Archive(STL10.url, STL10.filename, STL10.tgz_md5)
