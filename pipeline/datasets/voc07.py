"""PASCAL VOC 2007: 20 classes, several per image; training on trainval, testing on test.

    root/VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets/Main}

or the archives `VOCtrainval_06-Nov-2007.tar` and `VOCtest_06-Nov-2007.tar` in `root`. A class is
present if at least one of its objects is not marked difficult, and ignored if all of them are.

Source: Everingham et al. 2010, "The PASCAL Visual Object Classes (VOC) Challenge".
"""

from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from pipeline.base.errors import DataError, unknown_name
from pipeline.datasets.files import Archive, Download, read_bytes, read_lines, stamp_of, unpacked
from pipeline.datasets.source import Encoded, Item, MultiLabel, Source, SourceOptions, Split

FOLDER = "VOCdevkit/VOC2007"
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
IMAGE_SETS: dict[Split, str] = {"train": "trainval", "test": "test"}


class Voc07Options(SourceOptions):
    """`dataset.source: {kind: voc07, root: DIR}`."""

    kind: Literal["voc07"] = "voc07"
    root: str
    download: Download = False

    def open(self) -> "Voc07":
        """Read the image sets and their annotations."""
        return Voc07(Path(self.root), download=self.download)


class Voc07(Source):
    """JPEG files as they are, each with the list of its classes."""

    classes = CLASSES

    def __init__(self, root: Path, *, download: bool) -> None:
        self._folder = unpacked(root, FOLDER, _archives(), download=download)
        self.splits = {
            split: [self._item(name) for name in self._names(image_set)]
            for split, image_set in IMAGE_SETS.items()
        }

    def _names(self, image_set: str) -> list[str]:
        path = self._folder / "ImageSets" / "Main" / f"{image_set}.txt"
        return [line.split()[0] for line in read_lines(path, "image set")]

    def _item(self, name: str) -> Item:
        path = self._folder / "JPEGImages" / f"{name}.jpg"
        if not path.is_file():
            raise DataError(f"{path} is missing, though an image set names it.")
        return Item(f"JPEGImages/{name}.jpg", self._label(name), stamp_of(path))

    def _label(self, name: str) -> MultiLabel:
        path = self._folder / "Annotations" / f"{name}.xml"
        difficult: dict[int, list[bool]] = {}
        try:
            # Expat limits the expansion of entities and resolves no external ones.
            for node in ElementTree.fromstring(read_bytes(path)).iterfind("object"):  # noqa: S314
                flag = node.findtext("difficult", "0").strip() == "1"
                difficult.setdefault(_class_index(node, path), []).append(flag)
        except ElementTree.ParseError as error:
            raise DataError(f"{path} is not a VOC annotation: {error}.") from error
        present = sorted(index for index, flags in difficult.items() if not all(flags))
        ignored = sorted(index for index, flags in difficult.items() if all(flags))
        return MultiLabel(tuple(present), tuple(ignored))

    def read(self, item: Item) -> Encoded:
        """Return one file as it is."""
        return Encoded(read_bytes(self._folder / item.name), "jpg")


def _class_index(node: ElementTree.Element, path: Path) -> int:
    name = node.findtext("name", "").strip()
    if name not in CLASSES:
        raise DataError(f"{path}: {unknown_name('class', name, CLASSES)}")
    return CLASSES.index(name)


def _archives() -> list[Archive]:
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    known = [DATASET_YEAR_DICT[year] for year in ("2007", "2007-test")]
    return [Archive(entry["url"], entry["filename"], entry["md5"]) for entry in known]
