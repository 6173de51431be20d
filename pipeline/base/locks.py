"""Locks that end with the process that holds them, on local disks and on object storage."""

import errno
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

    The object names its holder. A holder that finds another one there neither renews nor removes
    it. Where the store can write on a condition (S3), only one of several processes that take over
    a lease succeeds; elsewhere the last one to write does, and the others find its name there.
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
            abandoned = self._await_abandonment(busy)
            taken = self._create() if abandoned is None else self._take_over(abandoned)
            if not taken:
                raise busy
        self._thread.start()

    def release(self) -> None:
        """Release the lease, unless another process has taken it over."""
        self._released.set()
        self._thread.join()
        if self._is_own(self._read()):
            self._place.unlink(missing_ok=True)

    def _create(self) -> bool:
        fs: Any = self._place.fs
        try:
            fs.pipe_file(self._place.path, self._content(), mode="create")
        except FileExistsError:
            return False
        return True

    def _await_abandonment(self, busy: MvmrError) -> bytes | None:
        """Return the content that was not renewed, or None if the lease was released."""
        seen, since = self._read(), time.monotonic()
        while time.monotonic() - since < LEASE_ABANDONED_SECONDS:
            time.sleep(LEASE_RENEWAL_SECONDS / 5)
            now = self._read()
            if now is None:
                return None
            if now != seen:
                raise busy
        return seen

    def _take_over(self, abandoned: bytes) -> bool:
        """Write this holder's name in place of `abandoned`; return whether it stays there."""
        version = self._version()
        if self._read() != abandoned:
            return False
        try:
            self._write(version)
        except (FileExistsError, FileNotFoundError):  # it is no longer that version
            return False
        time.sleep(LEASE_RENEWAL_SECONDS / 5)  # others may have read `abandoned` too, and write now
        return self._is_own(self._read())

    def _version(self) -> str | None:
        """Return what identifies the object's content where a write can depend on it."""
        fs: Any = self._place.fs
        if self._place.protocol not in ("s3", "s3a"):
            return None
        with suppress(FileNotFoundError):
            return str(fs.info(self._place.path, refresh=True)["ETag"])
        return None

    def _write(self, version: str | None) -> None:
        """Write this holder's name; raise FileExistsError if the content is another version."""
        fs: Any = self._place.fs
        condition = {} if version is None else {"IfMatch": version}
        try:
            fs.pipe_file(self._place.path, self._content(), **condition)
        except OSError as error:
            if condition and error.errno == errno.EINVAL:  # s3fs's word for a condition not met
                raise FileExistsError(str(self._place)) from error
            raise

    def _read(self) -> bytes | None:
        try:
            return bytes(self._place.read_bytes())
        except FileNotFoundError:
            return None

    def _is_own(self, content: bytes | None) -> bool:
        return content is not None and json.loads(content)["holder"] == self._token

    def _renew(self) -> None:
        while not self._released.wait(LEASE_RENEWAL_SECONDS):
            with suppress(Exception):  # a dropped connection; the next renewal tries again
                version, content = self._version(), self._read()
                if content is not None and not self._is_own(content):
                    return  # after a pause of this process, another one has taken it over
                self._renewals += 1
                self._write(version)

    def _content(self) -> bytes:
        return json.dumps({"holder": self._token, "renewals": self._renewals}).encode()
