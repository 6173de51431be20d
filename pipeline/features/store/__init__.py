"""The feature store: one Zarr v3 hierarchy a data set, computed once and read for years.

    features.zarr/<feature>            group; attributes: fingerprint, report, metadata, complete
    features.zarr/<feature>/<split>    array (samples, width); row i is sample i of the manifest
    features.zarr/<feature>/reduction  group; what maps the representation to what is stored

A tar of the shards is one chunk, or several whole ones where it would exceed `CHUNK_BYTES`, so
that a writer owns its chunks and a reader gets a tar's targets in one read. Every chunk carries
a CRC32C, every metadata file is known by its SHA-256, and a chunk that was never written reads
as a value that no stored number has. `docs/store.md` describes the format for other programs.
"""

from pipeline.features.store.feature import (
    FeatureStore,
    Fingerprint,
    StoredFeature,
    check_fingerprint,
    differing,
)
from pipeline.features.store.integrity import feature_damage
from pipeline.features.store.writer import CHUNK_BYTES, FORMAT, FeatureWriter, chunk_rows

__all__ = [
    "CHUNK_BYTES",
    "FORMAT",
    "FeatureStore",
    "FeatureWriter",
    "Fingerprint",
    "StoredFeature",
    "check_fingerprint",
    "chunk_rows",
    "differing",
    "feature_damage",
]
