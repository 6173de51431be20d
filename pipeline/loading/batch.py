"""What loaders read and yield: a split with its features, and batches of aligned rows."""

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypedDict

import torch
from torch import Tensor

from pipeline.base.digests import digest
from pipeline.base.errors import DataError, StaleFeatureError
from pipeline.base.locations import Location
from pipeline.base.text import counted
from pipeline.datasets.source import Label, MultiLabel
from pipeline.features.store import StoredFeature
from pipeline.images.original_view import ImageOptions
from pipeline.images.random_views import DrawnView
from pipeline.shards.listing import read_labels
from pipeline.shards.manifest import Manifest
from pipeline.shards.reading import Record, read_shard

NO_LABEL = -1


class Batch(TypedDict):
    """Samples of one split; row i of every member belongs to the same image.

    If images may have several of K classes, labels are (B, K) int8: 1 present, 0 absent,
    NO_LABEL ignored. An image without a label has NO_LABEL in its whole row.
    """

    images: Tensor  # (B, C, H, W) uint8, the original view; (B, 0) where nothing needs it
    views: list[DrawnView]  # the random views that the loader was asked for
    labels: Tensor  # (B,) int64, NO_LABEL if there is none
    index: Tensor  # (B,) int64, the sample's index in its split
    targets: dict[str, Tensor]  # name -> (B, width), as stored


@dataclass(frozen=True)
class SplitData:
    """What a loader reads: one split's shards and the features that go with them.

    `only` holds the indices, within the split, of the samples to read; None means all valid ones.
    """

    directory: Location
    manifest: Manifest
    features: Mapping[str, StoredFeature]
    image: ImageOptions
    only: frozenset[int] | None = None

    def __post_init__(self) -> None:
        for name, feature in self.features.items():
            found = feature.splits.get(self.manifest.split)
            if found != self.manifest.samples:
                raise DataError(
                    f"Feature {name!r} has {counted(found or 0, 'rows')} for "
                    f"{self.manifest.split}, the shards have {self.manifest.samples:,}: run "
                    "`mvmr extract-features`."
                )
            made_from = feature.fingerprint.get("shards", {}).get(self.manifest.split)
            if made_from not in (None, self.manifest.digest):
                raise StaleFeatureError(
                    f"Feature {name!r} was made from other {self.manifest.split} shards than those "
                    f"in {self.directory}: run `mvmr extract-features`."
                )

    def subset(self, index: Iterable[int]) -> "SplitData":
        """Return the same split, restricted to the samples with these indices.

        Raises DataError if one of them is invalid or not in the split.
        """
        only = frozenset(index)
        wrong = [i for i in only if not 0 <= i < self.manifest.samples] or [
            *(only & self.manifest.invalid)
        ]
        if wrong:
            raise DataError(
                f"{self.directory} has no valid sample {min(wrong)}; a subset names valid samples "
                f"from 0 to {self.manifest.samples - 1}."
            )
        return replace(self, only=only)

    @property
    def digest(self) -> str:
        """SHA-256 of the shards, and of which samples are read if these are not all."""
        if self.only is None:
            return self.manifest.digest
        return digest([self.manifest.digest, sorted(self.only)])

    @cached_property
    def samples_by_shard(self) -> tuple[int, ...]:
        """Number of samples to read from each shard."""
        if self.only is None:
            return tuple(shard.samples - len(shard.invalid) for shard in self.manifest.shards)
        counts = Counter(index // self.manifest.samples_per_shard for index in self.only)
        return tuple(counts[number] for number in range(len(self.manifest.shards)))

    @property
    def valid_samples(self) -> int:
        """Number of samples to read."""
        return sum(self.samples_by_shard)

    def rows(self, number: int) -> list[int]:
        """Return the rows of shard `number` to read, in order."""
        first, shard = self.manifest.first_index(number), self.manifest.shards[number]
        if self.only is not None:
            return [row for row in range(shard.samples) if first + row in self.only]
        invalid = set(shard.invalid)
        return [row for row in range(shard.samples) if row not in invalid]

    def indices(self) -> list[int]:
        """Return the index, within the split, of each sample to read, in order."""
        shards = range(len(self.manifest.shards))
        return [self.manifest.first_index(n) + row for n in shards for row in self.rows(n)]

    def records(self, number: int, first: int = 0, last: int | None = None) -> Iterator[Record]:
        """Yield records `first` to `last` (excluded) of those to read from shard `number`.

        Raises DataError if the tar is damaged, or disagrees with the manifest about valid samples.
        """
        wanted = self.rows(number)[first:last]
        if not wanted:
            return
        shard, chosen = self.manifest.shards[number], set(wanted)
        undecodable = set(shard.invalid) - set(shard.gone)
        low, high = wanted[0], wanted[-1] + 1
        for record in read_shard(self.directory, self.manifest, number, first=low, last=high):
            if record.row not in chosen and record.row not in undecodable:
                continue
            if record.valid == (record.row in undecodable):
                raise DataError(
                    f"{self.directory / shard.name}: sample {record.row} is valid in only one of "
                    "tar and manifest: run `mvmr shard --force`."
                )
            if record.row in chosen:
                yield record

    def class_counts(self) -> Tensor | None:
        """Return how many samples there are of each class (K,), None without one class each."""
        classes = self.manifest.classes
        if classes is None or self.manifest.multi_label:
            return None
        labels = label_tensor(read_labels(self.directory, self.manifest), self.manifest)
        read = labels[self.indices()]
        return read[read != NO_LABEL].bincount(minlength=len(classes))

    def decoded_bytes(self) -> int:
        """Return the bytes that the samples take in memory, decoded, with their targets."""
        pixels = self.image.channels * self.image.size**2
        return self.valid_samples * (pixels + self._bytes_beside())

    def encoded_bytes(self, *, stored_views: int = 0) -> int:
        """Return about the bytes that the samples take in memory as files, with their targets.

        `stored_views` is how many views' targets are kept besides those of the original views.
        """
        shards = zip(self.manifest.shards, self.samples_by_shard, strict=True)
        files = sum(shard.bytes * count // max(1, shard.samples) for shard, count in shards)
        views = stored_views * sum(f.row_bytes for f in self.viewed().values())
        return files + self.valid_samples * (self._bytes_beside() + views)

    def _bytes_beside(self) -> int:
        return 16 + sum(feature.row_bytes for feature in self.features.values())

    def viewed(self) -> dict[str, StoredFeature]:
        """Return the features that are also stored of views of the training images."""
        return {name: f for name, f in self.features.items() if f.views is not None}


def label_tensor(labels: Sequence[Label | None], manifest: Manifest) -> Tensor:
    """Return labels of samples of a split in the form that a `Batch` holds."""
    if not manifest.multi_label:
        known = [label if isinstance(label, int) else NO_LABEL for label in labels]
        return torch.tensor(known, dtype=torch.int64)
    rows = torch.full((len(labels), len(manifest.classes or ())), NO_LABEL, dtype=torch.int8)
    for row, label in zip(rows, labels, strict=True):
        if isinstance(label, MultiLabel):
            row.zero_()
            row[list(label.present)] = 1
            row[list(label.ignored)] = NO_LABEL
    return rows


class Loader(ABC):
    """Training batches: every `iter()` is the next epoch, whole, even if the last was left early.

    `state_dict` returns the position; a loader that loads it continues with the next unseen
    sample. `waited_seconds` is the time that its consumer has spent waiting for batches.
    """

    def __init__(self, batches: int) -> None:
        self.epoch = 0
        self.delivered = 0
        self.waited_seconds = 0.0
        self._batches = batches
        self._next = (0, 0)  # epoch and first batch of the next iteration

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        epoch, delivered = self._next
        self._next = (epoch + 1, 0)
        batches = self._epoch_batches(epoch, delivered)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited_seconds += time.perf_counter() - asked
            if batch is None:
                return
            delivered += 1
            self.epoch, self.delivered = epoch, delivered
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position: the epoch, and how many of its batches were delivered."""
        return {"epoch": self.epoch, "delivered": self.delivered}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a position that `state_dict` returned."""
        self.epoch, self.delivered = state["epoch"], state["delivered"]
        ended = self.delivered >= self._batches
        self._next = (self.epoch + 1, 0) if ended else (self.epoch, self.delivered)

    @abstractmethod
    def _epoch_batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        """Yield the batches of an epoch after the first `skip`."""
