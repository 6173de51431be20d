"""Opening Zarr groups and arrays, on disk or object storage, and the codecs of new arrays.

Consolidated metadata is never used, because it goes stale.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base.locations import Location

if TYPE_CHECKING:
    import zarr
    from zarr.storage import StoreLike


def open_group(place: Location, mode: Any = "r") -> "zarr.Group":
    """Open a group; `mode` is Zarr's: r, r+, a (create if missing), w (replace)."""
    import zarr

    return zarr.open_group(_store(place), mode=mode, use_consolidated=False)


def open_array(place: Location, mode: Any = "r") -> "zarr.Array[Any]":
    """Open an array; `mode` as in `open_group`."""
    import zarr

    return zarr.open_array(_store(place), mode=mode)


def array_at(place: Location) -> "zarr.Array[Any] | None":
    """Open the array at a place; return None if it is a group."""
    import zarr

    node = zarr.open(_store(place), mode="r")
    return node if isinstance(node, zarr.Array) else None


def checksums() -> list[Any]:
    """Return the codecs of every array: a CRC32C per chunk, and no compression."""
    from zarr.codecs import Crc32cCodec

    return [Crc32cCodec()]


def _store(place: Location) -> "StoreLike":
    if isinstance(place, Path):
        return place
    from zarr.storage import FsspecStore

    return FsspecStore.from_url(place.as_uri(), storage_options=dict(place.storage_options))
