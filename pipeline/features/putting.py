"""Storing rows that somebody computed elsewhere, in the same format and with the same checks."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import torch

from pipeline.base.digests import digest
from pipeline.base.errors import DataError
from pipeline.base.locations import Location
from pipeline.base.locks import exclusive
from pipeline.datasets.source import Split
from pipeline.features.encoding import Array, Encoding
from pipeline.features.extraction.engine import busy
from pipeline.features.extraction.fingerprint import FIT_SEED, fingerprint_of
from pipeline.features.fidelity import Witness, measure_fidelity
from pipeline.features.reduction import Reduction
from pipeline.features.store import FeatureStore, FeatureWriter, StoredFeature
from pipeline.features.store.feature import COMPONENT_DEVIATION, COMPONENT_MEAN
from pipeline.features.store.identities import write_identities
from pipeline.features.store.writer import LOCK
from pipeline.representations.given import GivenOptions
from pipeline.representations.storing import StoredType
from pipeline.shards.listing import read_contents
from pipeline.shards.manifest import read_manifests

WITNESSED = 1024


def put_rows(
    store: FeatureStore,
    name: str,
    rows: Mapping[Split, Array],
    shards: Location,
    work: Location,
    *,
    made_from: str,
    stored_type: StoredType,
) -> StoredFeature:
    """Store rows (samples, width), float32, of every split of the shards, and return the feature.

    Rows of images that could not be decoded are zeros. Raises DataError if widths differ.
    """
    widths = {array.shape[1] for array in rows.values()}
    if len(widths) != 1:
        raise DataError(f"All splits need rows of one width; found {sorted(widths)}.")
    options = GivenOptions(made_from=made_from, dtype=stored_type)
    manifests = read_manifests(shards)
    identity = {"kind": options.kind, "made_from": made_from}
    fingerprint = fingerprint_of(options, identity, manifests)
    content = _digest_of(rows)
    directory = work / f"{name}-{digest([fingerprint, content])[:16]}"
    writer = FeatureWriter(store, name, directory, fingerprint)
    valid = np.delete(rows["train"], sorted(manifests["train"].invalid), axis=0)
    encoding, sample = Encoding(stored_type), torch.from_numpy(valid[:WITNESSED])
    with exclusive(work / LOCK, busy(store)):
        store.create()
        writer.begin()
        reduction = Reduction(None)
        witness = Witness.of(sample, reduction.apply(sample), FIT_SEED, 0, 0)
        report = {
            "original_width": widths.pop(),
            "fit_images": 0,
            "fidelity": asdict(measure_fidelity([witness], encoding)),
        }
        statistics = {
            COMPONENT_MEAN: sample.mean(0).numpy(),
            COMPONENT_DEVIATION: sample.std(0).numpy(),
        }
        writer.write_reduction(
            {**reduction.arrays(), **encoding.arrays(), **statistics},
            {**reduction.attributes(), "report": report},
        )
        for split, manifest in manifests.items():
            array = rows[split]
            writer.create_split(
                split,
                samples=manifest.samples,
                width=array.shape[1],
                stored_type=stored_type,
                samples_per_shard=manifest.samples_per_shard,
            )
            chunk = writer.chunk_rows(split)
            for first in range(0, len(array), chunk):
                writer.write_rows(split, first, array[first : first + chunk], encoding)
            write_identities(writer.home, split, read_contents(shards / split, manifest))
        return writer.publish(
            {"options": options.model_dump(mode="json"), **report, "rows": content}
        )


def _digest_of(rows: Mapping[Split, Array]) -> str:
    """Return the SHA-256 of rows, which their description does not determine."""
    content = hashlib.sha256()
    for split, array in sorted(rows.items()):
        content.update(f"{split} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()
