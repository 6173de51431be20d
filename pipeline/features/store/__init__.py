"""The feature store: one Zarr v3 hierarchy per data set, computed once and read for years.

    features.zarr/<feature>            group; attributes: fingerprint, report, metadata, complete
    features.zarr/<feature>/<split>    array (samples, width); row i is sample i of the manifest
    features.zarr/<feature>/reduction  group; maps the representation to the stored numbers
    features.zarr/<feature>/identities group; which image each row of a split is of
    superseded/<feature>-<digest>      features that others of the same name have replaced

The rows of a tar are one chunk, or several whole ones if one would exceed `CHUNK_BYTES`. So
writers never share a chunk, and a reader gets a tar's targets in one read. Every chunk has a
CRC32C, and every metadata file a recorded SHA-256. A chunk that was never written reads as a
value that no stored number has. `docs/store.md` describes the format for other programs.
"""

from pipeline.features.store.feature import (
    FeatureStore,
    Fingerprint,
    StoredFeature,
    check_fingerprint,
    differing,
    recipe_of,
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
    "recipe_of",
]
