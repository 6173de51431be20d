"""Storing rows that somebody computed elsewhere, in the same format and with the same checks."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import torch

from pipeline.base.digests import digest
from pipeline.base.errors import DataError, StoreError
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
ROWS_AT_ONCE = 4096
MOST_LOST = 0.01
MOST_BLURRED = 0.1
CONSTANT = 1e-6  # a deviation, as a share of the numbers, that is rounding
GIVEN = GivenOptions.model_fields["kind"].default


def put_rows(
    store: FeatureStore,
    name: str,
    rows: Mapping[Split, Array],
    shards: Location,
    work: Location,
    *,
    made_from: str,
    stored_type: StoredType,
    replace: bool,
) -> StoredFeature:
    """Store rows (samples, width), of any floats, of every split of the shards.

    Rows of images that could not be decoded are zeros. Returns the feature. Raises DataError if
    widths differ or `stored_type` does not hold the rows, and StoreError if they would take the
    place of a feature that was computed, without `replace`.
    """
    widths = {array.shape[1] for array in rows.values()}
    if len(widths) != 1:
        raise DataError(f"All splits need rows of one width; found {sorted(widths)}.")
    for split, array in rows.items():
        _require_held(array, stored_type, split)
    rows = {split: array.astype(np.float32) for split, array in rows.items()}
    options = GivenOptions(made_from=made_from, dtype=stored_type)
    manifests = read_manifests(shards)
    identity = {"kind": options.kind, "made_from": made_from}
    fingerprint = fingerprint_of(options, identity, manifests)
    content = _digest_of(rows)
    directory = work / f"{name}-{digest([fingerprint, content])[:16]}"
    writer = FeatureWriter(store, name, directory, fingerprint)
    if not replace:
        _require_no_other_kind(store, name)
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


def kind_of(feature: StoredFeature) -> str:
    """Return the kind of options that a feature was stored with."""
    return str(feature.report.get("options", {}).get("kind", "by an earlier version"))


def _require_no_other_kind(store: FeatureStore, name: str) -> None:
    """Raise StoreError if the store has a feature of that name whose rows were computed."""
    kind = kind_of(store[name]) if name in store else GIVEN
    if kind != GIVEN:
        raise StoreError(
            f"The feature {name!r} in {store.path} was computed ({kind}), and these rows would "
            "take its place: put them under another name, or pass replace=True, which keeps it as "
            "superseded."
        )


def _require_held(rows: Array, stored_type: StoredType, split: Split) -> None:
    """Raise DataError if the numbers of a row, or of a column, are lost in `stored_type`.

    Numbers that are too small for a type become 0, and those too large infinite. A row or a column
    is lost if an error is over `MOST_LOST` of its largest number, and so is a column whose errors
    are over `MOST_BLURRED` of its deviation.
    """
    largest, errors = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    squares = np.zeros(rows.shape[1])
    for first in range(0, len(rows), ROWS_AT_ONCE):
        numbers = np.abs(rows[first : first + ROWS_AT_ONCE]).astype(np.float64)
        held = torch.from_numpy(numbers).to(getattr(torch, stored_type)).double().numpy()
        lost = np.abs(held - numbers)
        worst = _worst(lost.max(1), numbers.max(1))
        if worst is not None:
            raise _lossy(f"row {first + worst} of {split}", numbers[worst], stored_type)
        largest, errors = np.maximum(largest, numbers.max(0)), np.maximum(errors, lost.max(0))
        squares += (lost**2).sum(0)
    worst = _worst(errors, largest)
    if worst is not None:
        raise _lossy(f"column {worst} of {split}", np.abs(rows[:, worst]), stored_type)
    deviation = rows.std(0, dtype=np.float64)
    varying = deviation > CONSTANT * largest
    blurred = np.sqrt(squares / max(1, len(rows))) > MOST_BLURRED * deviation
    if (varying & blurred).any():
        column = int((varying & blurred).argmax())
        raise DataError(
            f"{stored_type} does not hold how column {column} of {split} varies: by "
            f"{deviation[column]:.1e} around {rows[:, column].mean():.1e}, where its numbers are "
            f"exact to {np.sqrt(squares[column] / len(rows)):.0e}. Subtract the mean"
            f"{_wider(stored_type)}."
        )


def _wider(stored_type: StoredType) -> str:
    return "" if stored_type == "float32" else ', or pass dtype="float32"'


def _worst(errors: Array, largest: Array) -> int | None:
    """Return the place of the largest error relative to the numbers, if it is too large."""
    shares = np.divide(errors, largest, out=np.zeros_like(errors), where=largest > 0)
    worst = int(shares.argmax()) if len(shares) else 0
    return worst if len(shares) and shares[worst] > MOST_LOST else None


def _lossy(where: str, numbers: Array, stored_type: StoredType) -> DataError:
    low, high = numbers[numbers > 0].min(), numbers.max()
    limits = torch.finfo(getattr(torch, stored_type))
    return DataError(
        f"{stored_type} does not hold {where}, whose numbers are from {low:.1e} to {high:.1e} in "
        f"size: it is exact to {limits.eps:.0e} from {limits.tiny:.0e} to {limits.max:.0e}, and "
        f"numbers beyond that become 0 or infinite. Scale them{_wider(stored_type)}."
    )


def _digest_of(rows: Mapping[Split, Array]) -> str:
    """Return the SHA-256 of rows, which their description does not determine."""
    content = hashlib.sha256()
    for split, array in sorted(rows.items()):
        content.update(f"{split} {array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()
