"""Computing a few stored rows again, to see that they are what they are said to be.

Kernels round differently with the number of images in a batch, so rows need not agree bit for
bit. They must agree within one unit: the step between neighbouring numbers of the stored type, at
the value or, for smaller values, at the root mean square of the row. Float32 has far smaller steps
than what is lost in a network, so its unit is 2^-16 of that magnitude.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.base.errors import StoreError
from pipeline.base.locations import Location
from pipeline.base.progress import Progress
from pipeline.datasets.source import Split
from pipeline.features.encoding import Array, Encoding
from pipeline.features.extraction.cluster import ClusterOptions, cluster
from pipeline.features.extraction.engine import feature_task
from pipeline.features.extraction.recompute import recorded_of
from pipeline.features.extraction.task import Span, Task
from pipeline.features.extraction.worker import recomputed_rows
from pipeline.features.reduction import Reduction
from pipeline.features.store import StoredFeature, check_fingerprint
from pipeline.representations.storing import StoredType
from pipeline.shards.manifest import Manifest, read_manifests

# Bits after the leading one; of float32, those that survive a network.
PRECISION: Mapping[StoredType, int] = {"float16": 10, "bfloat16": 7, "float32": 16}


@dataclass(frozen=True)
class SpotCheck:
    """How many rows were computed again, the largest difference in units, and wrong rows."""

    rows: int
    largest: float
    wrong: tuple[tuple[str, int], ...]


def spot_check(
    feature: StoredFeature,
    count: int,
    *,
    seed: int,
    shards: Location,
    work: Location,
    options: ClusterOptions,
    progress: Progress,
) -> SpotCheck:
    """Compute `count` random rows of a stored feature again and compare them.

    Raises StaleFeatureError if the shards are not those of the feature, or the feature cannot be
    made as it was.
    """
    manifests = read_manifests(shards)
    recorded = recorded_of(feature.path)
    if recorded is None:
        raise StoreError(f"{feature.path} no longer says how it was made: repair it first.")
    store = feature.path.parent.absolute()
    task = feature_task(
        feature.name, recorded.options, recorded.image, manifests, store, work.absolute()
    )
    check_fingerprint(feature.name, task.fingerprint, feature.fingerprint)
    arrays, attributes = feature.reduction()
    reduction = Reduction.load(arrays, attributes)
    encoding = Encoding.load(feature.stored_type, arrays)
    chosen = _chosen(manifests, count, seed)
    with cluster(options, shards=len(chosen), progress=progress) as running:
        tasks = [
            Task(
                (shards / split).absolute(),
                (Span(number, min(rows) - first, max(rows) - first + 1),),
                recorded.image,
                (task,),
                running.workers_per_host,
                len(rows),
                only=frozenset(rows),
            )
            for (split, number, first), rows in chosen.items()
        ]
        total = sum(map(len, chosen.values()))
        progress.start(f"recompute {feature.name}", total, "images")
        found = running.run(recomputed_rows, tasks, progress, reduction=reduction)
    largest, wrong = 0.0, list[tuple[str, int]]()
    for ((split, _, _), rows), values in zip(chosen.items(), found, strict=True):
        stored = np.concatenate([feature.read(split, row, row + 1) for row in sorted(rows)])
        units = _units(stored, values, encoding)
        largest = max(largest, float(units.max()))
        wrong += [
            (split, row)
            for row, off in zip(sorted(rows), units.max(axis=1), strict=True)
            if off > 1
        ]
    return SpotCheck(total, largest, tuple(wrong))


def _chosen(
    manifests: Mapping[Split, Manifest], count: int, seed: int
) -> dict[tuple[Split, int, int], list[int]]:
    """Return random valid rows by split, number of the shard, and its first row."""
    valid = [
        (split, row)
        for split, manifest in manifests.items()
        for row in sorted(set(range(manifest.samples)) - manifest.invalid)
    ]
    picked = np.random.default_rng(seed).permutation(len(valid))[:count]
    chosen = dict[tuple[Split, int, int], list[int]]()
    for split, row in sorted(valid[i] for i in picked):
        number = row // manifests[split].samples_per_shard
        key = split, number, manifests[split].first_index(number)
        chosen.setdefault(key, []).append(row)
    return chosen


def _units(stored: Array, values: Array, encoding: Encoding) -> Array:
    """Return by how many units rows (B, K), as decoded, differ from values before encoding."""
    again = encoding.decode(encoding.encode(values)).astype(np.float64)
    stored = stored.astype(np.float64)
    if encoding.scale is not None:
        unit: Array = encoding.scale.astype(np.float64)[None]
    else:
        magnitude = np.maximum(abs(stored), np.sqrt((stored**2).mean(axis=1, keepdims=True)))
        exponent = np.floor(np.log2(np.maximum(magnitude, np.finfo(np.float32).tiny)))
        unit = 2.0 ** (exponent - PRECISION[encoding.stored_type])
    difference: Array = abs(stored - again) / unit
    return difference
