"""A folder of images: `root/split/class/image`, `root/class/image`, or images without labels.

Sub-folders below a class belong to it; symbolic links are followed, names that start with a
dot are not looked at. Classes are sorted by name.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from PIL import Image

from pipeline.datasets.base import SPLITS, Encoded, Item, Source, SourceOptions, Split
from pipeline.datasets.files import read_bytes, read_class_list, stamp_of
from pipeline.errors import DataError
from pipeline.wording import counted

# These pass through byte for byte; any other format is stored losslessly as PNG.
PASSED_THROUGH = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}
CONVERTED = {".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


Labels = Literal["auto", "folders", "none"]


class ImageFolderOptions(SourceOptions):
    """`dataset.source: {kind: image_folder, root: DIR}`.

    `labels: folders` takes the first folder's name below the root (or the split) as the class,
    `none` takes every image as unlabelled, and `auto` decides by what is there: folders are
    classes, images lying directly in the root are unlabelled. `classes` is a file that lists the
    class folders to take, one at the start of each line; left out: all.
    """

    kind: Literal["image_folder"] = "image_folder"
    root: str
    labels: Labels = "auto"
    classes: str | None = None

    def open(self) -> "ImageFolder":
        """List the folder."""
        chosen = read_class_list(Path(self.classes)) if self.classes else None
        return ImageFolder(Path(self.root), labels=self.labels, chosen=chosen)


class ImageFolder(Source):
    """The images below a folder, found once, at construction.

    `parts` are the folders of the splits, found by their names where not given; `chosen` the
    class folders to take. Items are named by their path below `root`, and `read` reads any such.
    """

    def __init__(
        self,
        root: Path,
        *,
        labels: Labels = "auto",
        chosen: Sequence[str] | None = None,
        parts: Mapping[Split, Path] | None = None,
    ) -> None:
        if not root.is_dir():
            raise DataError(
                f"The image folder {str(root)!r} does not exist. "
                "Set dataset.source.root to the folder that holds your images."
            )
        self._root = root
        parts = parts or _split_folders(root) or {"train": root}
        found = {split: _images_by_folder(folder, chosen) for split, folder in parts.items()}
        labelled = {split: _is_labelled(parts[split], found[split], labels) for split in parts}
        self.classes = None
        if any(labelled.values()):
            self.classes = _common_classes({s: found[s] for s in parts if labelled[s]}, parts)
        self.splits = {
            split: self._items(found[split], self.classes if labelled[split] else None)
            for split in SPLITS
            if split in parts
        }
        if not any(self.splits.values()):
            endings = " ".join(sorted(PASSED_THROUGH.keys() | CONVERTED))
            raise DataError(f"There is no image below {str(root)!r} (looked for {endings}).")

    def _items(
        self, by_folder: Mapping[str, Sequence[Path]], classes: Sequence[str] | None
    ) -> list[Item]:
        index = {name: i for i, name in enumerate(classes or ())}
        return [
            Item(path.relative_to(self._root).as_posix(), index.get(folder), stamp_of(path))
            for folder in sorted(by_folder)
            for path in by_folder[folder]
        ]

    def read(self, item: Item) -> Encoded:
        """Return one file as it is, or converted to PNG where its format is not passed through."""
        path = self._root / item.name
        data = read_bytes(path)
        extension = PASSED_THROUGH.get(path.suffix.lower())
        return Encoded(data, extension) if extension else _as_png(data, path)


def _split_folders(root: Path) -> dict[Split, Path] | None:
    """Return the split folders if all visible folders of `root` are such, and one is train."""
    folders = [entry for entry in _visible(root) if entry.is_dir()]
    splits = {SPLIT_FOLDERS.get(folder.name.lower()): folder for folder in folders}
    odd = [folder.name for folder in folders if folder.name.lower() not in SPLIT_FOLDERS]
    if "train" in splits and len(splits.keys() - {None}) > 1 and odd:
        raise DataError(
            f"{root} has split folders and beside them {odd[0]!r}, which is none "
            f"({', '.join(SPLIT_FOLDERS)}). Move it elsewhere, or choose another root."
        )
    if not folders or None in splits or "train" not in splits:
        return None
    if len(splits) < len(folders):
        names = ", ".join(sorted(folder.name for folder in folders))
        raise DataError(f"{root} has two folders for one split ({names}); keep one of them.")
    return {split: folder for split, folder in splits.items() if split is not None}


def _images_by_folder(root: Path, chosen: Sequence[str] | None) -> dict[str, list[Path]]:
    """Return the images below each folder of `root`, sorted; "" stands for `root` itself.

    With `chosen` only below these folders; DataError if one is missing.
    """
    for name in chosen or ():
        if not (root / name).is_dir():
            raise DataError(
                f"There is no class folder {str(root / name)!r}, which the list of classes names."
            )
    result: dict[str, list[Path]] = {}
    for entry in _visible(root) if chosen is None else [root / name for name in sorted(chosen)]:
        if entry.is_dir():
            result[entry.name] = sorted(_walk(entry))
        elif _is_image(entry):
            result.setdefault("", []).append(entry)
    return result


def _is_labelled(root: Path, by_folder: Mapping[str, Sequence[Path]], labels: Labels) -> bool:
    if labels == "none":
        return False
    folders = sorted(by_folder.keys() - {""})
    loose = len(by_folder.get("", ()))
    if loose and folders:
        named = f"{folders[0]!r}{', ...' if len(folders) > 1 else ''}"
        raise DataError(
            f"{root} holds {counted(loose, 'images')} beside {counted(len(folders), 'folders')} "
            f"({named}), so it is unclear whether folders are classes. Move those images into a "
            "class folder, or set dataset.source.labels to none to take all images as unlabelled."
        )
    if labels == "folders" and not folders:
        raise DataError(f"{root} has no class folders; set dataset.source.labels to none.")
    empty = [folder for folder in folders if not by_folder[folder]]
    if empty:
        raise DataError(
            f"The class folder {str(root / empty[0])!r} holds no image. Remove it or fill it"
            + (f" ({len(empty)} such folders)." if len(empty) > 1 else ".")
        )
    return bool(folders)


def _common_classes(
    found: Mapping[Split, Mapping[str, Sequence[Path]]], folders: Mapping[Split, Path]
) -> tuple[str, ...]:
    classes = sorted(found["train"]) if "train" in found else sorted(set().union(*found.values()))
    for split, by_folder in found.items():
        extra = sorted(by_folder.keys() - set(classes))
        if extra:
            raise DataError(
                f"{folders[split]} has a class {extra[0]!r} that the training images lack."
            )
    return tuple(classes)


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _walk(folder: Path) -> Iterator[Path]:
    seen = set()
    for directory, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(directory, name) for name in files if not name.startswith("."))
        yield from (path for path in paths if _is_image(path))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in PASSED_THROUGH.keys() | CONVERTED and path.is_file()


def _as_png(data: bytes, path: Path) -> Encoded:
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.save(buffer, format="png")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} is not a readable image: {error}.") from error
    return Encoded(buffer.getvalue(), "png")
