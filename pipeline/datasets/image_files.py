"""Image files in folders: how to find them, and their content as it is packed."""

import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.base.errors import DataError
from pipeline.datasets.files import read_bytes
from pipeline.datasets.source import Encoded
from pipeline.images.decoding import decode

# These pass through byte for byte; other formats are decoded and stored as PNG.
PASSED_THROUGH = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}
CONVERTED = {".bmp", ".gif", ".jp2", ".ppm", ".pgm", ".tif", ".tiff"}
ENDINGS = tuple(sorted(PASSED_THROUGH.keys() | CONVERTED))


@dataclass
class Listing:
    """Image files, known by their endings, and counts of all other files by ending."""

    images: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def add(self, path: Path) -> None:
        """Add a file to the images or the others; ignore anything that is not a file."""
        if not path.is_file():
            return
        ending = path.suffix.lower()
        if ending in ENDINGS:
            self.images.append(path)
        else:
            self.others[ending or "no ending"] += 1


def visible(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted, without names that start with a dot."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def files_below(folder: Path) -> Listing:
    """Return the files anywhere below a folder; images are sorted by path.

    Symbolic links are followed, cycles only once; names that start with a dot are ignored.
    """
    found = Listing()
    for path in _walk(folder):
        found.add(path)
    found.images.sort()
    return found


def _walk(folder: Path) -> Iterator[Path]:
    seen = set()
    for directory, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:  # a link to a folder already visited
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(directory, name) for name in files if not name.startswith("."))


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
