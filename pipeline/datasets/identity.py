"""The identity of an image: the SHA-256 of its content, whatever its name, folder or class."""

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from pipeline.base.errors import DataError
from pipeline.base.progress import Progress, Silent
from pipeline.datasets.source import Item, Source

AT_ONCE = 1024


def identity_of(data: bytes) -> str:
    """Return the identity (hex) of an image file's content."""
    return hashlib.sha256(data).hexdigest()


def unreadable(name: str) -> str:
    """Return what stands for the identity of an image that cannot be read."""
    return hashlib.sha256(f"unreadable {name}".encode()).hexdigest()


def identify(
    source: Source,
    items: Iterable[Item],
    known: Mapping[tuple[str, str], str] | None = None,
    *,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Return the identity of each image, by name.

    `known` maps name and stamp to identities; only the other images are read.
    """
    items, known, progress = list(items), known or {}, progress or Silent()
    found = {i.name: known[i.name, i.stamp] for i in items if (i.name, i.stamp) in known}
    unknown = [item for item in items if item.name not in found]
    if unknown:
        progress.start("read images", len(unknown), "images")

    def read(item: Item) -> str:
        try:
            return identity_of(source.read(item).data)
        except DataError:
            return unreadable(item.name)

    with ThreadPoolExecutor() as pool:
        for first in range(0, len(unknown), AT_ONCE):
            some = unknown[first : first + AT_ONCE]
            found.update(zip((i.name for i in some), pool.map(read, some), strict=True))
            progress.advance(len(some))
    return found
