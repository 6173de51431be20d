"""Damaged files, found by the digests that were recorded when they were written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.base.digests import sha256_of
from pipeline.base.locations import Location


@dataclass(frozen=True)
class Damage:
    """A damaged or missing file, and the reason.

    `part` is the file's name in a split, or its array in a feature, "" for the feature's own
    metadata. `number` is that of the tar in the split, or of the chunk in the array.
    """

    path: Location
    reason: str
    part: str = ""
    number: int | None = None


def changed_files(root: Location, recorded: Mapping[str, str]) -> Iterator[Damage]:
    """Yield missing or changed files; `recorded` maps names below `root` to their SHA-256."""
    for name, sha256 in recorded.items():
        path = root / name
        if not path.exists():
            yield Damage(path, "is missing", name)
        elif sha256_of(path) != sha256:
            yield Damage(path, "is not what was written", name)
