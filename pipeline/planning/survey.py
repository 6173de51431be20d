"""What a folder of photographs is: how many, how large, in which splits, with or without classes.

Only names are listed, and the sizes of some images read; nothing is decoded.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from statistics import median

from PIL import Image, UnidentifiedImageError

from pipeline.base.errors import DataError
from pipeline.base.text import counted
from pipeline.datasets.image_folder import SPLIT_FOLDERS, ImageFolderOptions
from pipeline.datasets.source import Item, Source, Split

LOOKED_AT = 64  # images whose sizes are read
SMALLEST_CLASS = 10  # images in a class, by the median over the folders
NAMED = 3
# Folders that cameras and photo libraries make: years, days, 100CANON.
NO_CLASS = re.compile(r"\d{4}([-_. ]?\d{2}){0,2}|\d{3}[A-Z0-9_]{5}")


@dataclass(frozen=True)
class Survey:
    """A folder of photographs, and the options by which it is read.

    `source` lists the images; `labels` says why folders are classes or not. `side` is the median of
    the shorter sides, in pixels. `brought` are the splits besides train that the folder has.
    """

    options: ImageFolderOptions
    source: Source
    labels: str
    side: int
    brought: tuple[Split, ...]

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(map(len, self.source.splits.values()))

    @property
    def classes(self) -> int:
        """Number of classes, 0 if the images have no labels."""
        return len(self.source.classes or ())


def survey(root: str) -> Survey:
    """Look at the folder `root`. Raises DataError if there is no image that can be read."""
    plain = ImageFolderOptions(root=root, labels="none")
    source = plain.open()
    options, labels = plain, _without_classes([*_within_splits(source)])
    if labels is None:
        options = ImageFolderOptions(root=root, labels="folders")
        try:
            source = options.open()
            labels = "named by the folders; the student learns without them"
        except DataError as error:  # for example, classes that have no training images
            options, labels = plain, str(error)
    brought = tuple(split for split in source.splits if split != "train")
    return Survey(options, source, labels, _median_side(source), brought)


def _within_splits(source: Source) -> Iterator[PurePosixPath]:
    """Yield the path of each training image within the folder of its split."""
    paths = [PurePosixPath(item.name) for item in source.splits["train"]]
    in_folder = all(path.parts[0].lower() in SPLIT_FOLDERS for path in paths)
    for path in paths:
        yield path.relative_to(path.parts[0]) if in_folder else path


def _without_classes(paths: Sequence[PurePosixPath]) -> str | None:
    """Return why the folders of images are no classes, or None if they are."""
    folders = Counter(path.parts[0] for path in paths if len(path.parts) > 1)
    loose = len(paths) - folders.total()
    names = ", ".join(sorted(folders)[:NAMED]) + (", ..." if len(folders) > NAMED else "")
    if not folders:
        return "there are no folders of classes"
    if loose:
        return f"not all images are in folders, such as {names}"
    if len(folders) == 1:
        return f"all images are in one folder ({names})"
    if all(NO_CLASS.fullmatch(name) for name in folders):
        return f"the folders ({names}) are named by date or by a camera"
    if median(folders.values()) < SMALLEST_CLASS:
        return (
            f"most of the {counted(len(folders), 'folders')} hold fewer than "
            f"{SMALLEST_CLASS} images"
        )
    return None


def _median_side(source: Source) -> int:
    items = [item for split in source.splits.values() for item in split]
    some = items[:: max(1, len(items) // LOOKED_AT)][:LOOKED_AT]
    sides = [side for item in some if (side := _shorter_side(source, item))]
    if not sides:
        raise DataError(
            f"None of {counted(len(some), 'images')} can be read, such as {some[0].name!r}. "
            "Convert them to JPEG or PNG, or choose another folder."
        )
    return int(median(sides))


def _shorter_side(source: Source, item: Item) -> int | None:
    try:
        with Image.open(BytesIO(source.read(item).data)) as image:
            return min(image.size)
    except (DataError, OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
