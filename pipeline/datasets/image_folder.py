"""A folder of images: `root/split/class/image`, `root/class/image`, or images without labels.

Sub-folders of a class belong to it. Symbolic links are followed; names that start with a dot
are ignored. Classes are sorted by name.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pipeline.base.errors import DataError
from pipeline.base.text import counted, counted_kinds
from pipeline.datasets.files import read_class_list, stamp_of
from pipeline.datasets.image_files import ENDINGS, Listing, encoded, files_below, visible
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
        chosen = read_class_list(Path(self.classes)) if self.classes else None
        return ImageFolder(Path(self.root), labels=self.labels, chosen=chosen)


class ImageFolder(Source):
    """The images below a folder, found once, at construction.

    A class folder without an image is no class. `parts` are the folders of the splits, recognised
    by name if not given; `chosen` are the class folders to use. An item's name is its path below
    `root`; `read` accepts any such path.
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
        listed = {split: _by_folder(folder, chosen) for split, folder in parts.items()}
        found = {split: images for split, (images, _) in listed.items()}
        self.others = sum((others for _, others in listed.values()), Counter[str]())
        self.empty = tuple(
            str((parts[split] / name).relative_to(root))
            for split, some in found.items()
            for name, files in sorted(some.items())
            if not files and labels != "none"
        )
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
            others = f" There are {counted_kinds(self.others)}." if self.others else ""
            raise DataError(
                f"There is no image below {str(root)!r} (looked for {' '.join(ENDINGS)}).{others}"
            )

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
        """Return one file as it is, or converted to PNG if its format is not passed through."""
        return encoded(self._root / item.name)


def _split_folders(root: Path) -> dict[Split, Path] | None:
    """Return the split folders if `root` has only split folders, and one of them is train."""
    folders = [entry for entry in visible(root) if entry.is_dir()]
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


def _by_folder(
    root: Path, chosen: Sequence[str] | None
) -> tuple[dict[str, list[Path]], Counter[str]]:
    """Return the images below each folder of `root`, and counts of other files by ending.

    "" stands for `root` itself, if it holds images. With `chosen`, only these folders are read;
    raises DataError if one is missing.
    """
    for name in chosen or ():
        if not (root / name).is_dir():
            raise DataError(
                f"There is no class folder {str(root / name)!r}, which the list of classes names."
            )
    loose, found = Listing(), dict[str, Listing]()
    for entry in visible(root) if chosen is None else [root / name for name in sorted(chosen)]:
        if entry.is_dir():
            found[entry.name] = files_below(entry)
        else:
            loose.add(entry)
    images = {name: listing.images for name, listing in found.items()}
    others = sum((listing.others for listing in found.values()), loose.others)
    return ({"": loose.images} if loose.images else {}) | images, others


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
    named = {split: {n for n, images in some.items() if images} for split, some in found.items()}
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
