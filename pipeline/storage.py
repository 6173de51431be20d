"""Places for shards and features: a local path, or any URL that fsspec knows (s3://, gs://, ...).

A local place is a `pathlib.Path`, any other a `UPath`, which has the same methods. Credentials
come from the environment, as the library of each service reads them, and dropped connections
are retried by it. On object storage there are no renames and no locks of the system: what is
written becomes visible whole, and `Lease` takes the place of a lock.
"""

import json
import shutil
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from upath import UPath

from pipeline.errors import MvmrError, StoreError

if TYPE_CHECKING:
    from zarr.storage import StoreLike

Location: TypeAlias = Path | UPath

# The holder of a lease writes it anew so often; one that stays as it is so long is abandoned.
LEASE_RENEWAL_SECONDS = 5.0
LEASE_ABANDONED_SECONDS = 30.0


def location(url: str) -> Location:
    """Return the place that a path or a URL names, having looked that it can be reached.

    Raises StoreError if the service cannot be reached, refuses the credentials, or needs a
    library that is not installed.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return Path(url)
    if scheme in ("file", "local"):
        return Path(rest)
    try:
        place: UPath = UPath(url, use_listings_cache=False)  # other processes write too
        place.exists()
    except Exception as error:  # every service has errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(
            f"{url} cannot be reached ({reason.rstrip('.')}). Check the address, the credentials "
            "in the environment, and that the library for this kind of URL is installed (for "
            "s3://, `pip install 'mvmr[s3]'`)."
        ) from error
    return place


def is_local(place: Location) -> bool:
    """Whether `place` is in the local file system, where directories can be renamed."""
    return isinstance(place, Path)


def zarr_store(place: Location) -> "StoreLike":
    """Return what Zarr opens `place` by."""
    if isinstance(place, Path):
        return place
    from zarr.storage import FsspecStore

    return FsspecStore.from_url(place.as_uri(), storage_options=dict(place.storage_options))


def remove_tree(place: Location) -> None:
    """Remove a directory and what it holds, where it exists."""
    if isinstance(place, Path):
        if place.exists():
            shutil.rmtree(place)
    elif place.exists():
        place.fs.rm(place.path, recursive=True)


def names_in(place: Location) -> frozenset[str]:
    """Return the names of what a directory holds; none where it does not exist."""
    if not place.exists():
        return frozenset()
    return frozenset(entry.name for entry in place.iterdir())


class Lease:
    """A lock on object storage: an object that its holder writes anew every few seconds.

    `acquire` raises `busy` if another process holds it. One that is not renewed for
    `LEASE_ABANDONED_SECONDS` belonged to a process that has died, and is taken over.
    """

    def __init__(self, place: UPath) -> None:
        self._place = place
        self._token = uuid.uuid4().hex
        self._released = threading.Event()
        self._renewals = 0
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def acquire(self, busy: MvmrError) -> None:
        """Take the lease, waiting while it is unclear whether its holder lives."""
        if not self._create():
            self._await_abandonment(busy)
            self._place.unlink(missing_ok=True)
            if not self._create():
                raise busy
        self._thread.start()

    def release(self) -> None:
        """Give the lease back."""
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
