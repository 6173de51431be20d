"""A folder of images: `root/split/class/image`, `root/class/image`, or images without labels.

Sub-folders of a class belong to it. Symbolic links are followed; names that start with a dot
and folders of copies are ignored. Classes are sorted by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pipeline.base.errors import DataError
from pipeline.base.text import counted, counted_kinds
from pipeline.datasets.files import bytes_in, read_class_list, stamp_of
from pipeline.datasets.image_files import (
    ENDINGS,
    Listing,
    encoded,
    entries,
    files_below,
    is_folder,
    text_of,
)
from pipeline.datasets.source import SPLITS, Encoded, Item, Source, SourceOptions, Split

SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


Labels = Literal["auto", "folders", "none"]
NAMED = 5


class ImageFolderOptions(SourceOptions):
    """`dataset.source: {kind: image_folder, root: DIR}`.

    With `labels: folders`, the first folder below the root (or the split) is the class; with
    `none`, images are unlabelled; `auto` decides by what it finds: folders are classes, images
    directly in the root are unlabelled. `classes` is a file that lists the class folders to use,
    one at the start of each line; the default is all.
    """

    kind: Literal["image_folder"] = "image_folder"
    root: str
    labels: Labels = "auto"
    classes: str | None = None

    def open(self) -> "ImageFolder":
        """List the folder."""
        chosen = read_class_list(self.classes) if self.classes else None
        return ImageFolder(Path(self.root), labels=self.labels, chosen=chosen)


class ImageFolder(Source):
    """The images below a folder, found once, at construction.

    A class folder without an image is no class. `parts` are the folders of the splits, recognised
    by name if not given; `chosen` are the class folders to use. An item's name is its path below
    `root`, as `text_of` writes it; `read` accepts any such path.
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
            what = "is a file" if root.is_file() else "does not exist"
            raise DataError(
                f"The image folder {str(root)!r} {what}. "
                "Set dataset.source.root to the folder that holds your images."
            )
        self._root = root
        self._odd = dict[str, Path]()  # paths whose names cannot be written as text
        parts = parts or _split_folders(root) or {"train": root}
        rest = Listing()
        found = {split: _by_folder(folder, chosen, rest) for split, folder in parts.items()}
        empty = tuple(
            text_of(parts[split] / name, root)
            for split, some in found.items()
            for name, files in sorted(some.items())
            if not files and labels != "none"
        )
        self.unlisted = replace(rest.unlisted(root), empty=empty)
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
            others = f" There are {counted_kinds(rest.others)}." if rest.others else ""
            closed = (f" {path} cannot be listed: {why}." for path, why in rest.closed.items())
            others += "".join(closed)
            raise DataError(
                f"There is no image below {str(root)!r} (looked for {' '.join(ENDINGS)}).{others}"
            )

    def _items(
        self, by_folder: Mapping[str, Sequence[Path]], classes: Sequence[str] | None
    ) -> list[Item]:
        index = {name: i for i, name in enumerate(classes or ())}
        return [
            Item(self._name_of(path), index.get(text_of(Path(folder))), stamp_of(path))
            for folder in sorted(by_folder)
            for path in by_folder[folder]
        ]

    def _name_of(self, path: Path) -> str:
        name, as_it_is = text_of(path, self._root), path.relative_to(self._root).as_posix()
        if name != as_it_is:
            if (self._root / name).exists():
                raise DataError(
                    f"{self._root} has two files of the name {name!r}: in one of them, it is "
                    "written with bytes that are not UTF-8. Rename one."
                )
            self._odd[name] = path
        return name

    def read(self, item: Item) -> Encoded:
        """Return one file as it is, or converted to PNG if its format is not passed through."""
        return encoded(self._odd.get(item.name, self._root / item.name))

    def bytes_of(self, item: Item) -> int:
        """Return the size of one file."""
        return bytes_in(item.stamp)


def _split_folders(root: Path) -> dict[Split, Path] | None:
    """Return the split folders if `root` has only split folders, and one of them is train."""
    folders = [Path(entry.path) for entry in entries(root, Listing()) if is_folder(entry)]
    splits = {SPLIT_FOLDERS.get(folder.name.lower()): folder for folder in folders}
    odd = [folder.name for folder in folders if folder.name.lower() not in SPLIT_FOLDERS]
    if "train" in splits and len(splits.keys() - {None}) > 1 and odd:
        raise DataError(
            f"{root} has split folders, but {odd[0]!r} is not one of "
            f"{', '.join(SPLIT_FOLDERS)}. Move it elsewhere, or choose another root."
        )
    if not folders or None in splits or "train" not in splits:
        return None
    if len(splits) < len(folders):
        names = ", ".join(sorted(folder.name for folder in folders))
        raise DataError(f"{root} has two folders for one split ({names}); keep one of them.")
    return {split: folder for split, folder in splits.items() if split is not None}


def _by_folder(root: Path, chosen: Sequence[str] | None, rest: Listing) -> dict[str, list[Path]]:
    """Return the images below each folder of `root`, and add to `rest` what else is there.

    "" stands for `root` itself, if it holds images. With `chosen`, only these folders are read;
    raises DataError if one is missing.
    """
    for name in chosen or ():
        if not (root / name).is_dir():
            raise DataError(
                f"There is no class folder {str(root / name)!r}, which the list of classes names."
            )
    loose, found = Listing(), dict[str, Listing]()
    for entry in entries(root, loose) if chosen is None else ():
        if is_folder(entry):
            found[entry.name] = files_below(Path(entry.path))
        else:
            loose.add(entry)
    found |= {name: files_below(root / name) for name in sorted(chosen or ())}
    for listing in (loose, *found.values()):
        rest.update(listing)
    images = {name: listing.images for name, listing in found.items()}
    return ({"": loose.images} if loose.images else {}) | images


def _is_labelled(root: Path, by_folder: Mapping[str, Sequence[Path]], labels: Labels) -> bool:
    if labels == "none":
        return False
    folders = sorted(name for name, images in by_folder.items() if name and images)
    loose = len(by_folder.get("", ()))
    if loose and folders:
        named = f"{folders[0]!r}{', ...' if len(folders) > 1 else ''}"
        raise DataError(
            f"{root} holds {counted(loose, 'images')} beside {counted(len(folders), 'folders')} "
            f"({named}), so it is unclear whether folders are classes. Move those images into a "
            "class folder, or set dataset.source.labels to none to use all images without labels."
        )
    if labels == "folders" and not folders:
        raise DataError(f"{root} has no class folders; set dataset.source.labels to none.")
    return bool(folders)


def _common_classes(
    found: Mapping[Split, Mapping[str, Sequence[Path]]], folders: Mapping[Split, Path]
) -> tuple[str, ...]:
    named = {
        split: {text_of(Path(name)) for name, images in some.items() if images}
        for split, some in found.items()
    }
    classes = sorted(named["train"] if "train" in named else set().union(*named.values()))
    for split, names in named.items():
        extra = sorted(names - set(classes))
        if extra:
            some = ", ".join(map(repr, extra[:NAMED])) + (", ..." if len(extra) > NAMED else "")
            raise DataError(
                f"{folders[split]} has {counted(len(extra), 'classes')} ({some}) of which there "
                "are no training images. Give the folder the name that it has in "
                f"{folders.get('train', 'the training images')} ({', '.join(classes[:NAMED])}"
                f"{', ...' if len(classes) > NAMED else ''}), add such training images, or move "
                "it elsewhere."
            )
    return tuple(classes)
