"""Finding damage in a feature by the checksums of its chunks and metadata files."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.base.damage import Damage, changed_files
from pipeline.base.digests import digest, sha256_of
from pipeline.base.locations import Location, names_in
from pipeline.base.progress import Progress, Silent
from pipeline.features.encoding import ARRAY_TYPES, Array
from pipeline.features.store.hierarchy import array_at

METADATA = "zarr.json"
REDUCTION = "reduction"
IDENTITIES = "identities"
# What Zarr and its codecs raise for damaged or missing files.
UNREADABLE = (ValueError, TypeError, KeyError, OSError, RuntimeError)


def root_attributes(feature: Location) -> dict[str, Any]:
    """Return the attributes of a feature; ValueError if their digest does not fit."""
    metadata = json.loads((feature / METADATA).read_text(encoding="utf-8"))
    attributes: dict[str, Any] = metadata["attributes"]
    if "digest" in attributes and attributes["digest"] != seal(attributes):
        raise ValueError("its digest does not fit its content")
    return attributes


def seal(attributes: Mapping[str, Any]) -> str:
    """Return the digest of a complete feature's attributes, without the digest itself."""
    return digest({name: value for name, value in attributes.items() if name != "digest"})


def metadata_digests(feature: Location) -> dict[str, str]:
    """Return the SHA-256 of every metadata file inside a feature, except its own root file."""
    found = {}
    for name in sorted(names_in(feature)):
        below = feature / name
        if name != METADATA and (below / METADATA).exists():
            found[f"{name}/{METADATA}"] = sha256_of(below / METADATA)
            found |= {f"{name}/{path}": sha for path, sha in metadata_digests(below).items()}
    return found


def metadata_damage(feature: Location, recorded: Mapping[str, str]) -> Iterator[Damage]:
    """Yield the metadata files that are missing or do not match `recorded`."""
    for found in changed_files(feature, recorded):
        yield replace(found, part=found.part.removesuffix(f"/{METADATA}"))


def feature_damage(feature: Location, progress: Progress | None = None) -> list[Damage]:
    """Read a whole feature and return all damage; an empty list means that it is intact."""
    progress = progress or Silent()
    try:
        attributes = root_attributes(feature)
    except (*UNREADABLE, AttributeError) as error:
        own = Damage(feature / METADATA, reason_of(error), "")
        arrays = sorted(path.removesuffix(f"/{METADATA}") for path in metadata_digests(feature))
        return [own, *(d for a in arrays for d in array_damage(feature, a))]
    recorded: dict[str, str] = attributes.get("metadata", {})
    damages = list(metadata_damage(feature, recorded))
    unknown = {damage.part for damage in damages}
    known = [a for path in recorded if (a := path.removesuffix(f"/{METADATA}")) not in unknown]
    total = sum(_chunks(feature / array) for array in known)
    progress.start(f"read {feature.name}", total, "chunks")
    for array in known:
        damages += array_damage(feature, array, progress)
    return damages


def _chunks(place: Location) -> int:
    """Return how many chunks an array has; 0 for a group, or if it cannot be read."""
    try:
        array = array_at(place)
    except UNREADABLE:
        return 0
    return 0 if array is None else array.nchunks


def array_damage(
    feature: Location, array: str, progress: Progress | None = None
) -> Iterator[Damage]:
    """Yield the chunks of an array that fail their checksum, are cut short or are missing."""
    place = feature / array
    try:
        node = array_at(place)
    except UNREADABLE as error:
        yield Damage(place / METADATA, reason_of(error), array)
        return
    if node is None:
        return
    step, progress = node.chunks[0], progress or Silent()
    for number, first in enumerate(range(0, node.shape[0], step)):
        progress.advance(1)
        path = place / "c" / "/".join([str(number), *["0"] * (node.ndim - 1)])
        try:
            numbers = np.asarray(node[first : first + step])
        except UNREADABLE as error:
            yield Damage(path, reason_of(error), array, number)
            continue
        if has_gaps(numbers):
            reason = "holds a gap" if path.exists() else "is missing"
            yield Damage(path, reason, array, number)


def has_gaps(numbers: Array) -> bool:
    """Whether numbers of an array, before decoding, hold the value of a gap."""
    return bool(gaps_in(numbers).any())


def gaps_in(numbers: Array) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Return which rows of numbers of an array, before decoding, hold the value of a gap."""
    rows = numbers.reshape(len(numbers), int(np.prod(numbers.shape[1:])))
    if numbers.dtype.kind == "f":
        found = np.isnan(rows).any(axis=1)
    elif numbers.dtype == np.uint8:  # identities
        found = (rows == np.iinfo(np.uint8).max).all(axis=1)
    else:
        kinds = ARRAY_TYPES.values()
        gap = next(kind.gap for kind in kinds if kind.array == str(numbers.dtype))
        found = (rows == gap).any(axis=1)
    return np.asarray(found, dtype=bool)


def reason_of(error: Exception) -> str:
    """Return the first line of a library's message."""
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return (str(error).splitlines() or [type(error).__name__])[0]
