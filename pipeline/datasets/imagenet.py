"""ImageNet-1k and Tiny ImageNet: class folders to train on, and the official validation images.

The labels of the official test images are not public. Here, the official validation images are
the test split, and `dataset.split.validation` cuts validation images from the training images.

Sources: Russakovsky et al. 2015, "ImageNet Large Scale Visual Recognition Challenge"; Tiny
ImageNet is from Stanford's course CS231n.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pipeline.base.errors import DataError
from pipeline.datasets.files import read_class_list, read_lines, stamp_of
from pipeline.datasets.image_folder import ImageFolder
from pipeline.datasets.source import Encoded, Item, Source, SourceOptions, Split

DEVKIT = "ILSVRC2012_devkit_t12"
KAGGLE_LABELS = "LOC_val_solution.csv"


class ImageNetOptions(SourceOptions):
    """`dataset.source: {kind: imagenet, root: DIR}`, with `train/<class>/` and `val/`.

    `val/` has class folders too, or it is flat as published. Labels of a flat folder come from the
    developers' kit, `ILSVRC2012_devkit_t12/`, or from Kaggle's `LOC_val_solution.csv`, beside it.
    `classes` is a file that lists the class folders to use, or the name of a list that comes with
    the program: imagenet50, imagenet100, imagenet200.
    """

    kind: Literal["imagenet"] = "imagenet"
    root: str
    classes: str | None = None

    def open(self) -> "ClassFolders":
        """List the folders."""
        root = _existing(Path(self.root), "train", "val")
        chosen = read_class_list(self.classes) if self.classes else None
        if any(entry.is_dir() for entry in (root / "val").iterdir()):
            return ClassFolders(root, root / "val", None, chosen)
        return ClassFolders(root, root / "val", _labels_of_flat(root), chosen)


class TinyImageNetOptions(SourceOptions):
    """`dataset.source: {kind: tiny_imagenet, root: DIR}`, the unpacked `tiny-imagenet-200`."""

    kind: Literal["tiny_imagenet"] = "tiny_imagenet"
    root: str
    classes: str | None = None

    def open(self) -> "ClassFolders":
        """List the folders."""
        root = _existing(Path(self.root), "train", "val/images")
        chosen = read_class_list(self.classes) if self.classes else None
        lines = read_lines(root / "val" / "val_annotations.txt", "list of labels")
        labels = dict(line.split("\t")[:2] for line in lines)  # then the box of the object
        return ClassFolders(root, root / "val" / "images", labels, chosen)


class ClassFolders(Source):
    """Files as they are: `train/<class>/`, and test images in class folders or in a list.

    `labels` maps a test file's name to its class; it is None if folders are the classes.
    """

    classes: tuple[str, ...]

    def __init__(
        self,
        root: Path,
        test: Path,
        labels: Mapping[str, str] | None,
        chosen: Sequence[str] | None,
    ) -> None:
        parts: dict[Split, Path] = {"train": root / "train"}
        if labels is None:
            parts["test"] = test
        self._folder = ImageFolder(root, labels="folders", chosen=chosen, parts=parts)
        self.classes = tuple(self._folder.classes or ())
        self.splits = dict(self._folder.splits)
        self.unlisted = self._folder.unlisted
        if labels is not None:
            self.splits["test"] = self._listed(root, test, labels, subset=chosen is not None)

    def _listed(
        self, root: Path, folder: Path, labels: Mapping[str, str], *, subset: bool
    ) -> list[Item]:
        index = {name: i for i, name in enumerate(self.classes)}
        unknown = sorted(set(labels.values()) - index.keys())
        if unknown and not subset:
            raise DataError(f"{folder}: the label {unknown[0]!r} has no folder of training images.")
        items = []
        for name in sorted(name for name, label in labels.items() if label in index):
            path = folder / name
            if not path.is_file():
                raise DataError(f"{path} is missing, though the list of labels names it.")
            relative = path.relative_to(root).as_posix()
            items.append(Item(relative, index[labels[name]], stamp_of(path)))
        return items

    def read(self, item: Item) -> Encoded:
        """Return one file as it is."""
        return self._folder.read(item)

    def bytes_of(self, item: Item) -> int:
        """Return the size of one file."""
        return self._folder.bytes_of(item)


def _existing(root: Path, *folders: str) -> Path:
    for folder in folders:
        if not (root / folder).is_dir():
            raise DataError(
                f"There is no folder {str(root / folder)!r}: unpack the images there, or set "
                "dataset.source.root to the folder that holds it. mvmr cannot download them, "
                "because their publisher asks for an agreement."
            )
    return root


def _labels_of_flat(root: Path) -> dict[str, str]:
    """Return the class of every file of a flat `val` folder."""
    if (root / KAGGLE_LABELS).is_file():
        with (root / KAGGLE_LABELS).open(newline="", encoding="utf-8") as file:
            return {
                f"{row['ImageId']}.JPEG": row["PredictionString"].split()[0]
                for row in csv.DictReader(file)
            }
    if (root / DEVKIT).is_dir():
        return _labels_of_devkit(root / DEVKIT / "data")
    raise DataError(
        f"{root / 'val'} has no class folders, and the labels of its images are missing: put "
        f"the developers' kit {DEVKIT}/ or Kaggle's {KAGGLE_LABELS} into {str(root)!r}, or sort "
        "the images into class folders."
    )


def _labels_of_devkit(data: Path) -> dict[str, str]:
    from scipy.io import loadmat

    numbers = read_lines(data / "ILSVRC2012_validation_ground_truth.txt", "list of labels")
    try:
        synsets = loadmat(data / "meta.mat", squeeze_me=True)["synsets"]
        classes = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
        return {
            f"ILSVRC2012_val_{place:08d}.JPEG": classes[int(number)]
            for place, number in enumerate(numbers, start=1)
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{data} is not the developers' kit of 2012 ({error!r}).") from error
