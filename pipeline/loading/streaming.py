"""Loading a split from its tars in every epoch, by worker processes that stay alive.

A worker reads a segment of a tar and the same rows of each feature, checks keys against rows,
and shuffles within a buffer.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pipeline.base.processes import deaf_children
from pipeline.base.seeds import generator
from pipeline.features.store import StoredFeature
from pipeline.features.store.feature import view_part
from pipeline.loading.batch import Batch, Loader, SplitData, label_tensor
from pipeline.loading.batch_pixels import BatchPixels
from pipeline.loading.epoch_plan import Segment, plan_epoch
from pipeline.shards.reading import Record

_EPOCH, _SKIP = 0, 1  # positions in the state that the loader shares with its workers


class StreamingLoader(Loader):
    """Training batches that worker processes read from tars and store in every epoch."""

    def __init__(
        self,
        data: SplitData,
        pixels: BatchPixels,
        *,
        workers: int,
        buffer: int,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        super().__init__(data.valid_samples // (batch_size * world_size))
        stream = _Stream(data, pixels, buffer, batch_size, seed, rank, world_size)
        self._state = stream.state
        self._loader: DataLoader[Batch] = DataLoader(
            stream,
            batch_size=None,
            collate_fn=_as_made,  # type: ignore[arg-type]
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="forkserver" if workers else None,
            # It seeds the workers' generators, and would otherwise draw from the caller's.
            generator=generator(seed),
        )

    def _epoch_batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        self._state[_EPOCH], self._state[_SKIP] = epoch, skip
        # Workers can skip only whole rounds, since the DataLoader asks worker 0 first.
        workers = max(1, self._loader.num_workers)
        surplus = skip % workers
        with deaf_children():
            batches = iter(self._loader)
        for number, batch in enumerate(batches):
            if number >= surplus:
                yield batch


def _as_made(batch: Batch) -> Batch:
    """Leave a batch alone: by default, numbers of draws would become tensors."""
    return batch


class _Stream(IterableDataset[Batch]):
    """One rank's batches of the epoch in the shared state, divided among the workers."""

    def __init__(
        self,
        data: SplitData,
        pixels: BatchPixels,
        buffer: int,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.state = torch.zeros(2, dtype=torch.int64)
        self.state.share_memory_()  # type: ignore[no-untyped-call]
        self._data = replace(data, features={})
        self._paths = {name: feature.path for name, feature in data.features.items()}
        self._viewed = [*data.viewed()]
        self._opened: dict[str, StoredFeature] = {}
        self._pixels = pixels
        self._buffer, self._batch_size, self._seed = buffer, batch_size, seed
        self._rank, self._world_size = rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        epoch, skip = (int(value) for value in self.state)
        plan = plan_epoch(
            self._data.samples_by_shard,
            seed=self._seed,
            epoch=epoch,
            batch_size=self._batch_size,
            world_size=self._world_size,
            workers=workers,
        )
        samples = self._shuffled(plan[self._rank][worker], epoch, worker)
        for number, batch in enumerate(_chunks(samples, self._batch_size)):
            if number >= skip // workers:
                yield self._collate(batch, epoch)

    def _shuffled(
        self, segments: Sequence[Segment], epoch: int, worker: int
    ) -> Iterator["_Encoded"]:
        rng = random.Random(f"{self._seed},{epoch},{self._rank},{worker}")
        held: list[_Encoded] = []
        for segment in segments:
            for sample in self._read(segment, epoch):
                if len(held) < self._buffer:
                    held.append(sample)
                    continue
                place = rng.randrange(len(held))
                yield held[place]
                held[place] = sample
        rng.shuffle(held)
        yield from held

    def _read(self, segment: Segment, epoch: int) -> Iterator["_Encoded"]:
        number = segment.shard
        wanted = self._data.rows(number)[segment.first : segment.last]
        base, low = self._data.manifest.first_index(number), wanted[0]
        choice = self._pixels.choice
        views = [view_part(view) for view in (choice.of_shard(number, epoch) if choice else ())]
        rows = self._packed(base + low, base + wanted[-1] + 1, views)
        for record in self._data.records(number, segment.first, segment.last):
            # Copied: a view of one row in the buffer would keep its whole chunk in memory.
            yield _Encoded(record, base + record.row, rows[record.row - low].copy())

    def _packed(self, first: int, last: int, views: Sequence[str]) -> "np.ndarray[Any, Any]":
        """Return rows `first` to `last` of every feature as bytes, side by side.

        They are those of the split, then those of each of `views`, of the features that have any.
        """
        split: str = self._data.manifest.split
        wanted = [(name, split) for name in self._paths]
        wanted += [(name, view) for view in views for name in self._viewed]
        parts = [
            self._feature(name).read(part, first, last).view(np.uint8) for name, part in wanted
        ]
        if len(parts) == 1:
            return parts[0]  # not copied, which would take the memory of one more chunk
        return np.concatenate(parts, axis=1) if parts else np.empty((last - first, 0), np.uint8)

    def _unpacked(self, rows: "np.ndarray[Any, Any]", views: int) -> list[dict[str, torch.Tensor]]:
        """Return the values by feature, from rows that `_packed` made: of the split, of views."""
        found, start = [], 0
        for names in ([*self._paths], *[self._viewed] * views):
            targets = {}
            for name in names:
                feature = self._feature(name)
                end = start + feature.row_bytes
                own = rows[:, start:end].copy().view(np.dtype(feature.dtype))
                targets[name], start = torch.from_numpy(own), end
            found.append(targets)
        return found

    def _feature(self, name: str) -> StoredFeature:
        if name not in self._opened:
            self._opened[name] = StoredFeature(self._paths[name])
        return self._opened[name]

    def _collate(self, samples: Sequence["_Encoded"], epoch: int) -> Batch:
        index = torch.tensor([sample.index for sample in samples])
        images, views = self._pixels.of([s.record.data for s in samples], index, epoch)
        rows = np.stack([sample.row for sample in samples])
        targets, *of_views = self._unpacked(rows, len(views) if self._pixels.choice else 0)
        for place, own in enumerate(of_views):
            views[place] = views[place]._replace(targets=own)
        return Batch(
            images=images,
            views=views,
            labels=label_tensor([s.record.label for s in samples], self._data.manifest),
            index=index,
            targets=targets,
        )


@dataclass(frozen=True)
class _Encoded:
    record: Record
    index: int
    row: "np.ndarray[Any, Any]"  # its targets, as bytes side by side


def _chunks(samples: Iterator[_Encoded], size: int) -> Iterator[list[_Encoded]]:
    batch: list[_Encoded] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
