"""The listing `samples.jsonl`: one line per sample, with what the manifest does not say of it.

    key, label, name, stamp    key in the tar, label, and name and stamp in the source
    identity                   SHA-256 of the content of the image's file
    undecodable                true if the image cannot be decoded
    stored, saved              of an image that is stored reduced: SHA-256 of what is in the tar,
                               and the bytes that this takes less

Listings of format 2 have neither identities nor what follows.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.base.atomic import atomic_path
from pipeline.base.errors import DataError
from pipeline.base.locations import Location
from pipeline.base.text import counted
from pipeline.datasets.identity import identity_of, unreadable
from pipeline.datasets.source import Label, label_from_json, label_to_json
from pipeline.shards.manifest import Manifest, sample_key
from pipeline.shards.reading import Record, read_shard

LISTING = "samples.jsonl"
# Features record the first bytes of an image's identity; that of an invalid row is all zeros.
IDENTITY_BYTES = 16
IDENTITY_KEY, STORED_KEY = b'"identity": "', b'"stored": "'
UNDECODABLE = b'"undecodable": true}\n'


@dataclass(frozen=True, slots=True)
class Smaller:
    """What is stored of an image that was reduced: its SHA-256 (hex), and the bytes saved."""

    stored: str
    saved: int


@dataclass(frozen=True, slots=True)
class ListedSample:
    """A row of a split: the image's name and stamp in the source, its label and its identity."""

    name: str
    label: Label | None
    stamp: str
    identity: str
    undecodable: bool = False
    smaller: Smaller | None = None


def write_listing(samples: Sequence[ListedSample], path: Location, samples_per_shard: int) -> None:
    """Write the listing of a split."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as listing:
        for index, sample in enumerate(samples):
            line = {
                "key": sample_key(*divmod(index, samples_per_shard)),
                "label": label_to_json(sample.label),
                "name": sample.name,
                "stamp": sample.stamp,
                "identity": sample.identity,
            }
            if sample.smaller is not None:
                line |= {"stored": sample.smaller.stored, "saved": sample.smaller.saved}
            if sample.undecodable:
                line["undecodable"] = True
            listing.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_samples(directory: Location, manifest: Manifest) -> list[ListedSample]:
    """Return every sample of a split, in order.

    If the listing has no identities, the tars are read.
    """
    lines = list(_listing(directory, manifest))
    if lines and "identity" not in lines[0]:
        for line, record in zip(lines, _records(directory, manifest), strict=True):
            name, undecodable = line["name"], not record.valid
            identity = unreadable(name) if undecodable else identity_of(record.data)
            line |= {"identity": identity, "undecodable": undecodable}
    return [
        ListedSample(
            line["name"],
            label_from_json(line["label"]),
            line["stamp"],
            line["identity"],
            line.get("undecodable", False),
            Smaller(line["stored"], line["saved"]) if "stored" in line else None,
        )
        for line in lines
    ]


def read_labels(directory: Location, manifest: Manifest) -> list[Label | None]:
    """Return the label of every sample of a split, in order, without reading the tars."""
    return [label_from_json(line["label"]) for line in _listing(directory, manifest)]


def read_names(directory: Location, manifest: Manifest) -> list[str]:
    """Return the name in the source of every sample of a split, in order."""
    return [line["name"] for line in _listing(directory, manifest)]


def read_identities(directory: Location, manifest: Manifest) -> npt.NDArray[np.uint8]:
    """Return the beginnings of the identities of a split's images (samples, IDENTITY_BYTES).

    They are zero for images that cannot be decoded. If the listing has no identities, the tars are
    read.
    """
    return _digests(directory, manifest, (IDENTITY_KEY,))


def read_contents(directory: Location, manifest: Manifest) -> npt.NDArray[np.uint8]:
    """Return the beginnings of the digests of what is stored, which features are computed from.

    They are those of `read_identities`, but for images that are stored reduced.
    """
    return _digests(directory, manifest, (STORED_KEY, IDENTITY_KEY))


def _digests(
    directory: Location, manifest: Manifest, keys: Sequence[bytes]
) -> npt.NDArray[np.uint8]:
    """Return the beginning of the digest by the first of `keys` that a sample has."""
    found = np.zeros((manifest.samples, IDENTITY_BYTES), np.uint8)
    # Of a million lines, only this part is looked at; in a name, quotation marks are escaped.
    for row, line in zip(found, _lines(directory, manifest), strict=True):
        start = next((p + len(key) for key in keys if (p := line.rfind(key)) >= 0), -1)
        if start < 0:
            break
        if not line.endswith(UNDECODABLE):
            row[:] = beginning_of(line[start : start + 2 * IDENTITY_BYTES].decode())
    else:
        return found
    for row, record in zip(found, _records(directory, manifest), strict=True):
        if record.valid:
            row[:] = beginning_of(identity_of(record.data))
    return found


def beginning_of(identity: str) -> npt.NDArray[np.uint8]:
    """Return the first bytes of an identity, which features record."""
    return np.frombuffer(bytes.fromhex(identity[: 2 * IDENTITY_BYTES]), np.uint8)


def _records(directory: Location, manifest: Manifest) -> Iterator[Record]:
    for number in range(len(manifest.shards)):
        yield from read_shard(directory, manifest, number)


def _listing(directory: Location, manifest: Manifest) -> Iterator[dict[str, Any]]:
    try:
        for line in _lines(directory, manifest):
            yield json.loads(line)
    except ValueError as error:
        raise _unreadable(directory, error) from error


def _lines(directory: Location, manifest: Manifest) -> Iterator[bytes]:
    count = 0
    try:
        with (directory / LISTING).open("rb") as lines:
            for line in lines:
                count += 1
                yield line
    except OSError as error:
        raise _unreadable(directory, error) from error
    if count != manifest.samples:
        raise DataError(
            f"{directory / LISTING} lists {counted(count, 'samples')}, the manifest "
            f"{manifest.samples}: run `mvmr store verify --repair`."
        )


def _unreadable(directory: Location, error: Exception) -> DataError:
    return DataError(
        f"{directory / LISTING} cannot be read ({error}): run `mvmr store verify --repair`."
    )
