"""Real photographs for tests, of which some are unpacked once for each run of the tests."""

import tarfile
import tempfile
from functools import cache
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).parents[2] / "shared" / "data" / "clothes" / "clothes-small.tar"


def photographs(count: int) -> list[Path]:
    """Return up to 200 photographs of training, of all classes; skip the test without them."""
    return _unpacked()[:count]


@cache
def _unpacked() -> list[Path]:
    if not ARCHIVE.exists():
        pytest.skip(f"needs the photographs in {ARCHIVE.parent}")
    folder = Path(tempfile.mkdtemp(prefix="mvmr-photographs-"))
    found = []
    with tarfile.open(ARCHIVE) as archive:
        members = [
            m for m in archive if m.isfile() and m.name.endswith(".jpg") and "train" in m.name
        ]
        for number, member in enumerate(members[:: max(1, len(members) // 200)]):
            content = archive.extractfile(member)
            assert content is not None
            path = folder / f"{number:03d}.jpg"
            path.write_bytes(content.read())
            found.append(path)
    return found
