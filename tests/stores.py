"""Feature stores for tests, made from given rows."""

from pathlib import Path

import numpy as np

from pipeline.features.encoding import Array, Encoding
from pipeline.features.store import FeatureStore, FeatureWriter, StoredFeature
from pipeline.representations.storing import StoredType


def begin(
    root: Path,
    name: str,
    rows: Array,
    *,
    samples_per_shard: int,
    stored_type: StoredType = "float32",
    split: str = "train",
) -> tuple[FeatureWriter, Encoding]:
    """Return the writer of a feature without rows yet, and the encoding of `rows`."""
    fingerprint = {"dtype": stored_type, "representation": {"kind": name, "J": 2}}
    writer = FeatureWriter(
        FeatureStore(root / "features.zarr"), name, root / "work" / name, fingerprint
    )
    writer.begin()
    encoding = Encoding.fit(stored_type, rows)
    writer.write_reduction({"mean": np.ones(3), **encoding.arrays()}, {"components": None})
    writer.create_split(
        split,
        samples=len(rows),
        width=rows.shape[1],
        stored_type=stored_type,
        samples_per_shard=samples_per_shard,
    )
    return writer, encoding


def store_rows(
    root: Path,
    name: str,
    rows: Array,
    *,
    samples_per_shard: int,
    stored_type: StoredType = "float32",
) -> StoredFeature:
    """Store `rows` of the split train as the feature `name` and return it, complete."""
    writer, encoding = begin(
        root, name, rows, samples_per_shard=samples_per_shard, stored_type=stored_type
    )
    step = writer.chunk_rows("train")
    for first in range(0, len(rows), step):
        writer.write_rows("train", first, rows[first : first + step], encoding)
    return writer.publish({"answer": 42})
