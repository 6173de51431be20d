"""The manifest of a split, from which all later steps learn what the split contains."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.base.digests import digest
from pipeline.base.errors import DataError
from pipeline.base.locations import Location
from pipeline.datasets.source import SPLITS, Split

FORMAT = 3
READABLE = (2, 3)
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """One tar. `invalid` lists the rows that must not be used.

    Their image could not be decoded, or is `gone` from the source.
    """

    name: str
    samples: int
    bytes: int
    sha256: str
    invalid: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()

    def content(self) -> dict[str, Any]:
        """Return what the manifest records of the tar; an empty `gone` is omitted."""
        return {name: value for name, value in asdict(self).items() if value or name != "gone"}


@dataclass(frozen=True)
class Manifest:
    """The contents of one split. Row i of a stored feature is sample i here.

    Rows stay where they are when images come and go: new ones are added at the end.

    `source` is the digest of the source's listing, `listing` the SHA-256 of samples.jsonl. With
    `multi_label`, an image may have several of the classes; otherwise, it has one class or no
    label. `samples` includes invalid ones, `labelled` does not include those that are gone;
    `left_out` gives the reasons for the first that cannot be decoded, by name. The number of images
    that are stored `reduced`, and the bytes that were `saved` by it, stand there too.
    """

    dataset: str
    split: Split
    classes: tuple[str, ...] | None
    samples: int
    labelled: int
    samples_per_shard: int
    source: str
    listing: str
    options: Mapping[str, Any]
    shards: tuple[Shard, ...]
    multi_label: bool = False
    format: int = FORMAT
    left_out: Mapping[str, str] = field(default_factory=dict)
    reduced: int = 0
    saved: int = 0

    @property
    def digest(self) -> str:
        """SHA-256 of what can be read from the split, regardless of when and from which source."""
        names = ("split", "samples", "samples_per_shard", "shards", "format")
        return digest({name: value for name, value in self.content().items() if name in names})

    def seal(self) -> str:
        """Return the SHA-256 of `content`, which reveals damage to the file."""
        return digest(self.content())

    def content(self) -> dict[str, Any]:
        """Return what the file holds besides the seal, without what only some splits have."""
        values = {**asdict(self), "shards": [shard.content() for shard in self.shards]}
        rare = ("left_out", "reduced", "saved")
        return {name: value for name, value in values.items() if value or name not in rare}

    @property
    def valid(self) -> int:
        """Number of samples that may be used."""
        return self.samples - sum(len(shard.invalid) for shard in self.shards)

    @property
    def gone(self) -> int:
        """Number of samples whose image is gone from the source."""
        return sum(len(shard.gone) for shard in self.shards)

    @property
    def invalid(self) -> frozenset[int]:
        """Indices, within the split, of samples that must not be used."""
        return frozenset(
            self.first_index(number) + row
            for number, shard in enumerate(self.shards)
            for row in shard.invalid
        )

    def first_index(self, number: int) -> int:
        """Index, within the split, of the first sample of shard `number`."""
        return number * self.samples_per_shard


def sample_key(shard: int, row: int) -> str:
    """Return the key of a sample: `{shard:06d}_{row:06d}`."""
    return f"{shard:06d}_{row:06d}"


def read_manifest(directory: Location) -> Manifest:
    """Read the manifest of one split directory, or raise DataError."""
    path = directory / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] not in READABLE:
            raise DataError(
                f"{path} has format {data['format']}, this version reads {READABLE}: "
                "use the version of mvmr that wrote it, or run `mvmr shard --force`."
            )
        recorded = data.pop("seal")
        shards = tuple(_shard(values) for values in data["shards"])
        classes = None if data["classes"] is None else tuple(data["classes"])
        manifest = Manifest(**{**data, "shards": shards, "classes": classes})
        if manifest.seal() != recorded:
            raise ValueError("its seal does not fit its content")
    except FileNotFoundError:
        raise DataError(f"There are no finished shards in {directory}: run `mvmr shard`.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): run `mvmr shard --force`.") from error
    return manifest


def _shard(values: Mapping[str, Any]) -> Shard:
    rows = {name: tuple(values.get(name, ())) for name in ("invalid", "gone")}
    return Shard(**{**values, **rows})


def read_manifests(directory: Location) -> dict[Split, Manifest]:
    """Read the manifests of all splits below a `shards` directory; train must exist."""
    present = [split for split in SPLITS if split == "train" or (directory / split).exists()]
    return {split: read_manifest(directory / split) for split in present}
