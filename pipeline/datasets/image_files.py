"""Image files in folders: how to find them, and their content as it is packed."""

import io
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from pipeline.base.errors import DataError
from pipeline.datasets.files import read_bytes
from pipeline.datasets.source import Encoded, Unlisted
from pipeline.images.decoding import decode

# These pass through byte for byte; other formats are decoded and stored as PNG.
PASSED_THROUGH = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}
CONVERTED = {".bmp", ".gif", ".jp2", ".ppm", ".pgm", ".tif", ".tiff"}
ENDINGS = tuple(sorted(PASSED_THROUGH.keys() | CONVERTED))


# Thumbnails of a NAS, of macOS' archives and of desktops, and what a disk's check has found.
COPIES = ("@eaDir", "__MACOSX", ".thumbnails", "lost+found")


@dataclass
class Listing:
    """Image files, known by their endings, and what else is there, as `Unlisted` has it.

    A link to a file that does not exist counts as the image that it would be.
    """

    images: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    closed: dict[Path, str] = field(default_factory=dict)

    def add(self, entry: "os.DirEntry[str]") -> None:
        """Add a file to the images or the others; ignore anything that is not a file."""
        path = Path(entry.path)
        plain = entry.is_file(follow_symlinks=False)
        if not (plain or path.is_file() or (path.is_symlink() and not path.exists())):
            return
        ending = path.suffix.lower()
        if ending in ENDINGS:
            self.images.append(path)
        else:
            self.others[ending or "no ending"] += 1

    def add_copies(self, folder: Path) -> None:
        """Count the images below a folder of copies."""
        files = (Path(name) for _, _, names in os.walk(folder) for name in names)
        count = sum(file.suffix.lower() in ENDINGS for file in files)
        if count:
            self.copies[folder.name] += count

    def update(self, other: "Listing") -> None:
        """Add all that another listing holds."""
        self.images += other.images
        self.others.update(other.others)
        self.copies.update(other.copies)
        self.closed |= other.closed

    def unlisted(self, root: Path | None = None) -> Unlisted:
        """Return what is listed besides the images; folders are named as `text_of` names them."""
        closed = {text_of(path, root): why for path, why in self.closed.items()}
        return Unlisted(self.others, self.copies, closed)


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry of a folder is a folder, or a link to one."""
    if entry.is_symlink():
        return Path(entry.path).is_dir()  # a link to itself is none
    return entry.is_dir()


def text_of(path: PurePath, root: PurePath | None = None) -> str:
    r"""Return a path, below `root` if it is given, with / between its parts.

    Bytes that are not UTF-8 are written as \xNN, so that any file and protocol can hold the name.
    """
    within = path if root is None else path.relative_to(root)
    return os.fsencode(within.as_posix()).decode("utf-8", "backslashreplace")


def entries(folder: Path, listing: Listing) -> "list[os.DirEntry[str]]":
    """Return the visible entries of a folder, sorted: names that start with a dot are ignored.

    What does not belong to the images is added to the listing: folders of copies, and the folder
    itself if it cannot be listed.
    """
    try:
        with os.scandir(folder) as scan:
            every = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        listing.closed[folder] = error.strerror or str(error)
        return []
    for entry in every:
        if entry.name in COPIES:
            listing.add_copies(Path(entry.path))
    return [entry for entry in every if entry.name not in COPIES and entry.name[0] != "."]


def files_below(folder: Path) -> Listing:
    """Return the files anywhere below a folder; images are sorted by path.

    Symbolic links are followed, cycles only once; names that start with a dot are ignored.
    """
    found, seen, waiting = Listing(), set[str](), [folder]
    while waiting:
        current = waiting.pop()
        real = os.path.realpath(current)
        if real in seen:  # a link to a folder already visited
            continue
        seen.add(real)
        for entry in entries(current, found):
            if is_folder(entry):
                waiting.append(Path(entry.path))
            else:
                found.add(entry)
    found.images.sort()
    return found


def encoded(path: Path) -> Encoded:
    """Return an image file as it is, or as PNG if its format is not passed through.

    Raises DataError if the file cannot be read, or if it must be decoded and cannot be.
    """
    data = read_bytes(path)
    extension = PASSED_THROUGH.get(path.suffix.lower())
    if extension:
        return Encoded(data, extension)
    try:
        return _converted(data)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def as_packed(data: bytes) -> Encoded:
    """Return an image, known by its first bytes, as it is, or as PNG if it is not passed through.

    Raises DataError if it must be decoded and cannot be.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return Encoded(data, "jpg")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return Encoded(data, "png")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Encoded(data, "webp")
    return _converted(data)


def _converted(data: bytes) -> Encoded:
    buffer = io.BytesIO()
    decode(data).save(buffer, format="png")
    return Encoded(buffer.getvalue(), "png")
