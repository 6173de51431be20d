"""Places for shards and features: a local path, or any URL that fsspec knows (s3://, gs://, ...).

A local place is a `pathlib.Path`; any other is a `UPath`, which has the same methods. The library
of each service reads the credentials from the environment and retries dropped connections.
Object storage has no renames and no system locks: a written object becomes visible whole, and
a lease replaces a lock.
"""

import errno
import shutil
from pathlib import Path
from typing import TypeAlias

from upath import UPath

from pipeline.base.errors import StoreError

Location: TypeAlias = Path | UPath

# The libraries that reach places behind a URL; each has errors of its own.
SERVICES = (
    *("adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google"),
    *("huggingface_hub", "requests", "s3fs", "urllib3"),
)


def location(url: str) -> Location:
    """Return the place that a path or a URL names, after checking that a URL can be reached.

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


def remove_tree(place: Location) -> None:
    """Remove a directory and its contents, if it exists."""
    if isinstance(place, Path):
        if place.exists():
            shutil.rmtree(place)
    elif place.exists():
        place.fs.rm(place.path, recursive=True)


def move_tree(place: Location, target: Location) -> None:
    """Move a directory to a place on the same file system or service, replacing what is there."""
    remove_tree(target)
    if isinstance(place, Path) and isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        place.replace(target)
    elif isinstance(place, UPath) and isinstance(target, UPath):
        place.fs.mv(place.path, target.path, recursive=True)


def names_in(place: Location) -> frozenset[str]:
    """Return the names in a directory, or none if it does not exist."""
    if not place.exists():
        return frozenset()
    return frozenset(entry.name for entry in place.iterdir())


def is_out_of_reach(error: BaseException | None) -> bool:
    """Return whether an error, or its cause, says that a service could not be connected to."""
    while error is not None:
        for kind in type(error).__mro__:
            library = kind.__module__.partition(".")[0]
            named = "Connect" in kind.__name__ or "Timeout" in kind.__name__
            if (named and library in SERVICES) or kind in (ConnectionError, TimeoutError):
                return True
        if isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
            return True
        error = error.__cause__
    return False
