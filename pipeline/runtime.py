"""What every stage needs from the machine: seeds, devices, cores, locks, safe writes, progress."""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

import torch

from pipeline.errors import MvmrError
from pipeline.storage import Lease, Location

READ_BYTES = 1 << 20


def device_from(name: str) -> torch.device:
    """Return the device called `name`; "auto" is the first GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def available_cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def seed_from(*seeds: int) -> int:
    """Return one seed made of several; streams of different tuples do not overlap."""
    text = ",".join(str(seed) for seed in seeds).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(*seeds: int) -> torch.Generator:
    """Return a CPU generator seeded by `seed_from(*seeds)`."""
    return torch.Generator().manual_seed(seed_from(*seeds))


@contextmanager
def atomic_path(target: Location) -> Iterator[Path]:
    """Yield a temporary local path; on success its content appears at `target`, all at once.

    A local target is synced and replaced by a rename, a remote one uploaded.
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
        raise OSError(error.errno, error.strerror, str(target)) from error  # not the temporary one
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # last: a library may have made the file anew
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def exclusive(path: Location, busy: MvmrError) -> Iterator[None]:
    """Hold a lock on `path`, or raise `busy` if another process holds it.

    The lock goes with the process, however that ends; a remote one after half a minute.
    """
    if not isinstance(path, Path):
        lease = Lease(path)
        lease.acquire(busy)
        try:
            yield
        finally:
            lease.release()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, busy):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: see `_locked`


def _locked(path: Path, busy: MvmrError) -> IO[str]:
    """Return the file at `path`, locked.

    Who holds the lock removes the file. So a file that was opened before that and locked after
    it is no longer the one at `path`, where another process may hold a lock, and is opened anew.
    """
    while True:
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise busy from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def write_json(path: Location, value: Any) -> None:
    """Write `value` atomically as indented JSON; NaN and infinity are refused."""
    with atomic_path(path) as temporary:
        text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def sha256_of(path: Location) -> str:
    """Return the SHA-256 (hex) of a file, read in pieces."""
    summary = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            summary.update(piece)
    return summary.hexdigest()


class Progress(Protocol):
    """How a long operation tells its caller where it is; a stage draws it."""

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin a phase of `total` units, 0 if they cannot be counted; the next one ends it."""
        ...

    def advance(self, count: int, status: str = "") -> None:
        """Say that `count` more units are done; a `status` stands until the next one."""
        ...

    def note(self, text: str) -> None:
        """Say one line that stays."""
        ...


@contextmanager
def not_kept(what: str, progress: Progress) -> Iterator[None]:
    """Say of work that an interruption undoes that it is undone: most of it is kept."""
    try:
        yield
    except KeyboardInterrupt:
        progress.note(f"Interrupted: {what} begins anew the next time.")
        raise


class Silent:
    """A Progress that nobody watches."""

    def start(self, what: str, total: int, unit: str) -> None:
        """Do nothing."""

    def advance(self, count: int, status: str = "") -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""
