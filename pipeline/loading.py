"""Images and cached targets together, aligned by construction.

An epoch is a *plan*: shards in an order drawn from (seed, epoch), their rows cut into whole
batches for every rank and worker. A worker reads a segment of a tar and the same rows of each
feature, checks keys against rows, and shuffles within a buffer. Where the data set fits in
memory it is decoded once and kept (*resident*), with a full permutation every epoch.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import psutil
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pipeline.config import Options
from pipeline.errors import DataError
from pipeline.images import ImageOptions, decode, original_view
from pipeline.runtime import Progress, Silent, generator
from pipeline.shards import Manifest, Record, read_shard
from pipeline.store import StoredFeature

NO_LABEL = -1
_EPOCH, _SKIP = 0, 1  # places in the state that the loader shares with its workers


class Batch(TypedDict):
    """Samples of one split; row i of every member belongs to the same image."""

    images: Tensor  # (B, C, H, W) uint8, the original view
    labels: Tensor  # (B,) int64, NO_LABEL where there is none
    index: Tensor  # (B,) int64, the sample's index in its split
    targets: dict[str, Tensor]  # name -> (B, width), as stored


class LoadingOptions(Options):
    """`train.loading`: how batches come to the training step.

    `mode: auto` keeps the data set in memory if it takes at most `memory_share` of what is
    available. `buffer` is the number of samples that a streaming worker shuffles.
    """

    mode: Literal["auto", "resident", "streaming"] = "auto"
    memory_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    workers: Annotated[int, Field(ge=0)] = 2
    buffer: Annotated[int, Field(ge=1)] = 4096


@dataclass(frozen=True)
class Segment:
    """Valid rows `first` to `last` (excluded, counted among the valid ones) of one shard."""

    shard: int
    first: int
    last: int


@dataclass(frozen=True)
class SplitData:
    """What a loader reads: one split's shards and the features that go with them."""

    directory: Path
    manifest: Manifest
    features: Mapping[str, StoredFeature]
    image: ImageOptions

    def __post_init__(self) -> None:
        for name, feature in self.features.items():
            found = feature.splits.get(self.manifest.split)
            if found != self.manifest.samples:
                raise DataError(
                    f"Feature {name!r} has {found} rows for {self.manifest.split}, the shards "
                    f"{self.manifest.samples} samples: run `mvmr extract-features`."
                )

    @property
    def valid_samples(self) -> int:
        """Number of samples that may be used."""
        return self.manifest.samples - len(self.manifest.invalid)

    def resident_bytes(self) -> int:
        """Memory that the whole split takes, decoded, with its targets."""
        pixels = self.image.channels * self.image.size**2
        rows = sum(f.width * np.dtype(f.dtype).itemsize for f in self.features.values())
        return self.manifest.samples * (pixels + rows + 16)


def plan_epoch(
    samples: Sequence[int],
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    world_size: int = 1,
    workers: int = 1,
) -> list[list[list[Segment]]]:
    """Return segments[rank][worker], each holding a whole number of batches.

    `samples` is the number of valid samples of each shard, `batch_size` that of one rank.
    Every rank gets the same number of batches; what does not fill a batch on every rank is
    left out, other samples in every epoch. Worker w of a rank serves its batches w, w + workers,
    and so on, as a DataLoader asks for them.
    """
    order = torch.randperm(len(samples), generator=generator(seed, epoch)).tolist()
    starts = np.concatenate([[0], np.cumsum([samples[shard] for shard in order])])
    batches = int(starts[-1]) // (batch_size * world_size)
    plans: list[list[list[Segment]]] = []
    position = 0
    for _ in range(world_size):
        ranks: list[list[Segment]] = []
        for worker in range(workers):
            count = (batches // workers + (worker < batches % workers)) * batch_size
            ranks.append(list(_segments(order, starts, position, position + count)))
            position += count
        plans.append(ranks)
    return plans


def _segments(
    order: Sequence[int], starts: "np.ndarray[Any, Any]", first: int, last: int
) -> Iterator[Segment]:
    """Cut positions `first` to `last` of the permuted sequence at the shards' borders."""
    slot = int(np.searchsorted(starts, first, side="right")) - 1
    while first < last:
        end = min(last, int(starts[slot + 1]))
        if end > first:
            begin = int(starts[slot])
            yield Segment(order[slot], first - begin, end - begin)
        first, slot = end, slot + 1


class Loader(ABC):
    """Training batches, epoch after epoch: every `iter()` is the next one.

    `state_dict` says how far it is, and a loader that loads it goes on with the next unseen
    sample. Raises DataError if the split is smaller than one batch on every rank.
    """

    def __init__(self, batches: int) -> None:
        self.epoch = 0
        self._delivered = 0
        self._batches = batches

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        if self._delivered >= self._batches:  # a consumer that knows the length stops there
            self.epoch, self._delivered = self.epoch + 1, 0
        for batch in self._epoch_batches(self.epoch, self._delivered):
            self._delivered += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position: epoch and number of its batches delivered."""
        return {"epoch": self.epoch, "delivered": self._delivered}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a position that `state_dict` returned."""
        self.epoch, self._delivered = state["epoch"], state["delivered"]

    @abstractmethod
    def _epoch_batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        """Yield the batches of an epoch after the first `skip`."""


def training_loader(
    data: SplitData,
    options: LoadingOptions,
    *,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    progress: Progress | None = None,
) -> Loader:
    """Return the resident or the streaming loader, as `options` and the memory say."""
    batches = data.valid_samples // (batch_size * world_size)
    if batches == 0:
        raise DataError(
            f"A batch of {batch_size} on {world_size} rank(s) needs more than the "
            f"{data.valid_samples} training images there are: lower train.batch_size."
        )
    budget = options.memory_share * psutil.virtual_memory().available / world_size
    fits = data.resident_bytes() <= budget
    if options.mode == "resident" or (options.mode == "auto" and fits):
        split = load_resident(data, progress=progress)
        return ResidentLoader(split, batch_size, seed=seed, rank=rank, world_size=world_size)
    return StreamingLoader(
        data, options, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size
    )


@dataclass(frozen=True)
class ResidentSplit:
    """A decoded split in memory: the valid samples, in order."""

    images: Tensor
    labels: Tensor
    index: Tensor
    targets: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, chosen: Tensor | slice) -> Batch:
        """Return the samples at the positions `chosen`."""
        return Batch(
            images=self.images[chosen],
            labels=self.labels[chosen],
            index=self.index[chosen],
            targets={name: values[chosen] for name, values in self.targets.items()},
        )


def load_resident(data: SplitData, *, progress: Progress | None = None) -> ResidentSplit:
    """Decode a whole split into memory."""
    progress = progress or Silent()
    progress.start(f"load {data.manifest.split}", data.manifest.samples, "images")
    image, count = data.image, data.valid_samples
    images = torch.empty((count, image.channels, image.size, image.size), dtype=torch.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    index = torch.empty(count, dtype=torch.int64)
    position = 0
    for number, shard in enumerate(data.manifest.shards):
        for record in read_shard(data.directory, data.manifest, number):
            if record.valid:
                images[position] = original_view(decode(record.data), image)
                labels[position] = NO_LABEL if record.label is None else record.label
                index[position] = data.manifest.first_index(number) + record.row
                position += 1
        progress.advance(shard.samples)
    split = data.manifest.split
    targets = {n: torch.from_numpy(f.read(split))[index] for n, f in data.features.items()}
    return ResidentSplit(images, labels, index, targets)


class EvaluationLoader:
    """Every valid sample of a split once, in order, as often as asked.

    Batches have nearly equal sizes, at most `batch_size`, so that a statistic of a batch is
    not dominated by a short last one. The split is decoded at the first use and kept.
    """

    def __init__(
        self, data: SplitData, batch_size: int, *, progress: Progress | None = None
    ) -> None:
        self._data = data
        self._progress = progress
        count = max(1, -(-data.valid_samples // batch_size))
        borders = np.linspace(0, data.valid_samples, count + 1).round().astype(int).tolist()
        self._slices = [slice(*pair) for pair in pairwise(borders)]

    def __len__(self) -> int:
        return len(self._slices)

    def __iter__(self) -> Iterator[Batch]:
        for rows in self._slices:
            yield self.resident.rows(rows)

    @property
    def split(self) -> str:
        """Name of the split."""
        return self._data.manifest.split

    @property
    def digest(self) -> str:
        """Digest of the split's manifest."""
        return self._data.manifest.digest

    def preload(self) -> None:
        """Decode the split now rather than at the first use."""
        len(self.resident)

    @cached_property
    def resident(self) -> ResidentSplit:
        """The whole split, decoded."""
        return load_resident(self._data, progress=self._progress)


class ResidentLoader(Loader):
    """Batches from memory, in a full permutation every epoch."""

    def __init__(
        self, split: ResidentSplit, batch_size: int, *, seed: int, rank: int, world_size: int
    ) -> None:
        super().__init__(len(split) // (batch_size * world_size))
        self._split = split
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size

    def _epoch_batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        order = torch.randperm(len(self._split), generator=generator(self._seed, epoch))
        for number in range(skip, len(self)):
            start = (number * self._world_size + self._rank) * self._batch_size
            yield self._split.rows(order[start : start + self._batch_size])


class StreamingLoader(Loader):
    """Batches from tars and store by worker processes that stay alive between epochs."""

    def __init__(
        self,
        data: SplitData,
        options: LoadingOptions,
        *,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        super().__init__(data.valid_samples // (batch_size * world_size))
        stream = _Stream(data, options.buffer, batch_size, seed, rank, world_size)
        self._state = stream.state
        self._loader: DataLoader[Batch] = DataLoader(
            stream,
            batch_size=None,
            num_workers=options.workers,
            persistent_workers=options.workers > 0,
            multiprocessing_context="forkserver" if options.workers else None,
        )

    def _epoch_batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        self._state[_EPOCH], self._state[_SKIP] = epoch, skip
        # A worker cannot skip a fraction of the round: the DataLoader asks worker 0 first.
        workers = max(1, self._loader.num_workers)
        surplus = skip % workers
        for number, batch in enumerate(self._loader):
            if number >= surplus:
                yield batch


class _Stream(IterableDataset[Batch]):
    """One rank's batches of the epoch that the shared state names, cut over the workers."""

    def __init__(
        self,
        data: SplitData,
        buffer: int,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.state = torch.zeros(2, dtype=torch.int64)
        self.state.share_memory_()  # type: ignore[no-untyped-call]
        self._directory, self._manifest, self._image = data.directory, data.manifest, data.image
        self._paths = {name: feature.path for name, feature in data.features.items()}
        self._opened: dict[str, StoredFeature] = {}
        self._buffer, self._batch_size, self._seed = buffer, batch_size, seed
        self._rank, self._world_size = rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        epoch, skip = (int(value) for value in self.state)
        plan = plan_epoch(
            [shard.samples - len(shard.invalid) for shard in self._manifest.shards],
            seed=self._seed,
            epoch=epoch,
            batch_size=self._batch_size,
            world_size=self._world_size,
            workers=workers,
        )
        samples = self._shuffled(plan[self._rank][worker], epoch, worker)
        for number, batch in enumerate(_chunks(samples, self._batch_size)):
            if number >= skip // workers:
                yield self._collate(batch)

    def _shuffled(
        self, segments: Sequence[Segment], epoch: int, worker: int
    ) -> Iterator["_Encoded"]:
        rng = random.Random(f"{self._seed},{epoch},{self._rank},{worker}")
        held: list[_Encoded] = []
        for segment in segments:
            for sample in self._read(segment):
                if len(held) < self._buffer:
                    held.append(sample)
                    continue
                place = rng.randrange(len(held))
                yield held[place]
                held[place] = sample
        rng.shuffle(held)
        yield from held

    def _read(self, segment: Segment) -> Iterator["_Encoded"]:
        manifest, number = self._manifest, segment.shard
        shard = manifest.shards[number]
        invalid = set(shard.invalid)
        valid = [row for row in range(shard.samples) if row not in invalid]
        rows = valid[segment.first : segment.last]
        base = manifest.first_index(number)
        low, high = rows[0], rows[-1] + 1
        targets = {
            name: self._feature(name).read(manifest.split, base + low, base + high)
            for name in self._paths
        }
        for record in read_shard(self._directory, manifest, number, first=low, last=high):
            if record.valid != (record.row not in invalid):
                raise DataError(
                    f"{self._directory / shard.name}: sample {record.row} is valid in only one of "
                    "tar and manifest: run `mvmr shard --force`."
                )
            if record.valid:
                own = {name: values[record.row - low] for name, values in targets.items()}
                yield _Encoded(record, base + record.row, own)

    def _feature(self, name: str) -> StoredFeature:
        if name not in self._opened:
            self._opened[name] = StoredFeature(self._paths[name])
        return self._opened[name]

    def _collate(self, samples: Sequence["_Encoded"]) -> Batch:
        views = [original_view(decode(sample.record.data), self._image) for sample in samples]
        labels = [NO_LABEL if s.record.label is None else s.record.label for s in samples]
        return Batch(
            images=torch.stack(views),
            labels=torch.tensor(labels),
            index=torch.tensor([sample.index for sample in samples]),
            targets={
                name: torch.from_numpy(np.stack([sample.targets[name] for sample in samples]))
                for name in self._paths
            },
        )


@dataclass(frozen=True)
class _Encoded:
    record: Record
    index: int
    targets: dict[str, "np.ndarray[Any, Any]"]


def _chunks(samples: Iterator[_Encoded], size: int) -> Iterator[list[_Encoded]]:
    batch: list[_Encoded] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
