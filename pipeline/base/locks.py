"""Locks that end with the process that holds them, on local disks and on object storage."""

import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from upath import UPath

from pipeline.base.errors import MvmrError
from pipeline.base.locations import Location


@contextmanager
def exclusive(path: Location, busy: MvmrError) -> Iterator[None]:
    """Hold a lock on `path`, or raise `busy` if another process holds it.

    The lock ends with the process, even if that is killed; a remote one half a minute later.
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
            path.unlink(missing_ok=True)  # while the lock is held: see `_locked`


def _locked(path: Path, busy: MvmrError) -> IO[str]:
    """Return the file at `path`, locked.

    The holder of the lock removes the file. A file that was opened before the removal and locked
    after it is no longer the one at `path`, which another process may have locked. So the file is
    opened again until the locked one is the one at `path`.
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


# A holder rewrites its lease this often; a lease that stays unchanged this long is abandoned.
LEASE_RENEWAL_SECONDS = 5.0
LEASE_ABANDONED_SECONDS = 30.0


class Lease:
    """A lock on object storage: an object that its holder rewrites every few seconds.

    `acquire` raises `busy` if another process holds it. A lease that is not renewed for
    `LEASE_ABANDONED_SECONDS` belonged to a process that has died; `acquire` takes it over.
    """

    def __init__(self, place: UPath) -> None:
        self._place = place
        self._token = uuid.uuid4().hex
        self._released = threading.Event()
        self._renewals = 0
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def acquire(self, busy: MvmrError) -> None:
        """Take the lease, waiting while it is unclear whether its holder is alive."""
        if not self._create():
            self._await_abandonment(busy)
            self._place.unlink(missing_ok=True)
            if not self._create():
                raise busy
        self._thread.start()

    def release(self) -> None:
        """Release the lease."""
        self._released.set()
        self._thread.join()
        self._place.unlink(missing_ok=True)

    def _create(self) -> bool:
        fs: Any = self._place.fs
        try:
            fs.pipe_file(self._place.path, self._content(), mode="create")
        except FileExistsError:
            return False
        return True

    def _await_abandonment(self, busy: MvmrError) -> None:
        seen, since = self._read(), time.monotonic()
        while time.monotonic() - since < LEASE_ABANDONED_SECONDS:
            time.sleep(LEASE_RENEWAL_SECONDS / 5)
            now = self._read()
            if now is None:
                return
            if now != seen:
                raise busy

    def _read(self) -> bytes | None:
        try:
            return bytes(self._place.read_bytes())
        except FileNotFoundError:
            return None

    def _renew(self) -> None:
        while not self._released.wait(LEASE_RENEWAL_SECONDS):
            self._renewals += 1
            with suppress(Exception):  # a dropped connection; the next renewal tries again
                self._place.write_bytes(self._content())

    def _content(self) -> bytes:
        return json.dumps({"holder": self._token, "renewals": self._renewals}).encode()
