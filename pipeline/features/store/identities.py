"""Which image each row of a stored feature is of, so that rows outlive an arrangement.

    features.zarr/<feature>/identities/<split>   array (samples, 16), the beginnings of identities

A row of zeros is that of no image: it could not be decoded, or was gone before the feature was
computed. Rows of the same image are looked up by binary search, in memory that grows with the
number of rows but not with their width.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.base.errors import MvmrError
from pipeline.base.locations import Location
from pipeline.features.store.feature import BASIS, FeatureStore, StoredFeature
from pipeline.features.store.hierarchy import checksums, open_array, open_group
from pipeline.features.store.integrity import (
    IDENTITIES,
    METADATA,
    UNREADABLE,
    metadata_digests,
    root_attributes,
    seal,
)

Identities = npt.NDArray[np.uint8]
CHUNK_ROWS = 2**20
NEVER_WRITTEN = 255


def write_identities(feature: Location, split: str, identities: Identities) -> None:
    """Write the identities of the rows of one split, unless they are written."""
    place = feature / IDENTITIES / split
    if (place / METADATA).exists():
        with suppress(*UNREADABLE):
            if np.array_equal(np.asarray(open_array(place)[...]), identities):
                return
    group = open_group(feature, "r+").require_group(IDENTITIES)
    array = group.create_array(
        split,
        shape=identities.shape,
        chunks=(max(1, min(CHUNK_ROWS, len(identities))), identities.shape[1]),
        dtype="uint8",
        fill_value=NEVER_WRITTEN,
        compressors=checksums(),
        overwrite=split in group,
        attributes={"rows": "row i begins the SHA-256 of the image of row i of the feature"},
    )
    array[...] = identities


def add_identities(store: FeatureStore, tables: Mapping[str, tuple[str, Identities]]) -> None:
    """Record the identities in features that lack them, as those of earlier versions do.

    `tables` holds split and identities by the digest of the manifest that a feature was made from.
    """
    for feature in store.every():
        lacking = {
            split: tables[digest][1]
            for split, digest in feature.fingerprint.get("shards", {}).items()
            if digest in tables and feature.identities(split) is None
        }
        for split, identities in lacking.items():
            write_identities(feature.path, split, identities)
        if lacking:
            attributes = {
                **root_attributes(feature.path),
                "metadata": metadata_digests(feature.path),
            }
            open_group(feature.path, "r+").attrs.put({**attributes, "digest": seal(attributes)})


def covers(newer: StoredFeature, older: StoredFeature) -> bool:
    """Whether each row of a feature is in a newer one as well, made alike."""
    if older.fingerprint == newer.fingerprint:
        return True
    alike = older.recipe == newer.recipe
    if not alike or older.fingerprint.get(BASIS) != newer.fingerprint.get(BASIS):
        return False
    for split in older.parts:
        try:
            rows = older.identities(split)
        except MvmrError:  # damaged, so nobody knows
            return False
        if rows is None or not places_of(rows[rows.any(axis=1)], [newer]).found.all():
            return False
    return True


@dataclass(frozen=True)
class Places:
    """Where rows are found: `source` (N,) indexes `sources`, -1 for none; `row` (N,) its rows."""

    sources: Sequence[tuple[StoredFeature, str]]
    source: npt.NDArray[np.int32]
    row: npt.NDArray[np.int64]

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """Which rows are found."""
        return self.source >= 0


def places_of(wanted: Identities, features: Sequence[StoredFeature]) -> Places:
    """Return where features hold the rows of images, in the first one that does."""
    sources, first, second = list[tuple[StoredFeature, str]](), [], []
    number, row = [], []
    for feature in features:
        for split in feature.parts:
            try:
                identities = feature.identities(split)
            except MvmrError:  # damaged: its rows are computed again
                continue
            if identities is None:
                continue
            halves = _halves(identities)
            real = np.flatnonzero(halves.any(axis=1))
            first.append(halves[real, 0])
            second.append(halves[real, 1])
            number.append(np.full(len(real), len(sources), np.int32))
            row.append(real)
            sources.append((feature, split))
    source = np.full(len(wanted), -1, np.int32)
    rows = np.full(len(wanted), -1, np.int64)
    if sources and sum(map(len, row)) and len(wanted):
        high, low = np.concatenate(first), np.concatenate(second)
        order = np.argsort(high, kind="stable")
        asked = _halves(wanted)
        at = order[np.searchsorted(high[order], asked[:, 0]).clip(max=len(order) - 1)]
        same = (high[at] == asked[:, 0]) & (low[at] == asked[:, 1]) & asked.any(axis=1)
        source[same] = np.concatenate(number)[at[same]]
        rows[same] = np.concatenate(row)[at[same]]
    return Places(sources, source, rows)


def _halves(identities: Identities) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(identities).view(np.uint64)
