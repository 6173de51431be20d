"""Files that appear whole or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.base.locations import Location


@contextmanager
def atomic_path(target: Location) -> Iterator[Path]:
    """Yield a temporary local path; on success its content appears at `target`, all at once.

    A local target is synced and replaced by a rename; a remote one is uploaded.
    """
    if not isinstance(target, Path):
        with tempfile.TemporaryDirectory() as directory:
            local = Path(directory, target.name)
            local.touch()
            yield local
            target.fs.put_file(str(local), target.path)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error  # names the target
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # last: a library may have recreated the file
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Location, value: Any) -> None:
    """Write `value` atomically as indented JSON. Raises ValueError for NaN and infinity."""
    with atomic_path(path) as temporary:
        text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
