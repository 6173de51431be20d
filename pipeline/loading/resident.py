"""Loading a split that fits in memory: read once and kept, fully permuted in every epoch.

It is kept as decoded original views. Where random views are cut from larger files, the files are
kept instead, and decoded in every epoch, by threads.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.base.devices import available_cores
from pipeline.base.progress import Progress, Silent
from pipeline.base.seeds import generator
from pipeline.base.threads import mapped_ahead
from pipeline.datasets.source import Label
from pipeline.features.store.feature import view_part
from pipeline.images.cutting import original_view_of
from pipeline.images.decoding import opened
from pipeline.images.random_views import DrawnView
from pipeline.loading.batch import Batch, Loader, SplitData, label_tensor
from pipeline.loading.batch_pixels import BatchPixels
from pipeline.shards.reading import Record

Positions = Tensor | slice  # of samples among those to read, in the order of the split


@dataclass(frozen=True)
class HeldSplit(ABC):
    """The valid samples of a split in memory, in order."""

    labels: Tensor
    index: Tensor
    targets: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.index)

    @abstractmethod
    def batches(
        self, chosen: Iterable[Positions], pixels: BatchPixels, epoch: int
    ) -> Iterator[Batch]:
        """Yield the batch of each of `chosen`."""

    def _targets_of(self, positions: Positions) -> dict[str, Tensor]:
        return {name: values[positions] for name, values in self.targets.items()}


@dataclass(frozen=True)
class DecodedSplit(HeldSplit):
    """Samples as original views: `images` (N, C, size, size), uint8."""

    images: Tensor

    def batches(
        self, chosen: Iterable[Positions], pixels: BatchPixels, epoch: int
    ) -> Iterator[Batch]:
        """Yield batches; their random views are to be cut from the original ones."""
        for positions in chosen:
            index = self.index[positions]
            yield Batch(
                images=self.images[positions],
                views=pixels.drawn(index, epoch),
                labels=self.labels[positions],
                index=index,
                targets=self._targets_of(positions),
            )


@dataclass(frozen=True)
class EncodedSplit(HeldSplit):
    """Samples as image files, which `threads` threads decode, a batch each.

    `of_views` (K, N, width), by feature, are the targets of stored views, if these are shown.
    """

    files: Sequence[bytes]
    threads: int
    of_views: Mapping[str, Tensor]

    def batches(
        self, chosen: Iterable[Positions], pixels: BatchPixels, epoch: int
    ) -> Iterator[Batch]:
        """Yield batches; the following ones are decoded meanwhile."""
        every = torch.arange(len(self))

        def made(positions: Positions) -> Batch:
            index = self.index[positions]
            files = [self.files[position] for position in every[positions].tolist()]
            images, views = pixels.of(files, index, epoch)
            return Batch(
                images=images,
                views=self._with_targets(views, every[positions], pixels, epoch),
                labels=self.labels[positions],
                index=index,
                targets=self._targets_of(positions),
            )

        return mapped_ahead(made, chosen, threads=self.threads, ahead=self.threads)

    def _with_targets(
        self, views: list[DrawnView], places: Tensor, pixels: BatchPixels, epoch: int
    ) -> list[DrawnView]:
        """Return stored views with their targets, others as they are."""
        if pixels.choice is None:
            return views
        chosen = torch.from_numpy(pixels.choice.of_rows(self.index[places], epoch))
        return [
            view._replace(targets={n: rows[own, places] for n, rows in self.of_views.items()})
            for view, own in zip(views, chosen, strict=True)
        ]


def load_decoded(data: SplitData, *, progress: Progress | None = None) -> DecodedSplit:
    """Decode the original views of a whole split into memory, by as many threads as cores."""
    image = data.image
    shape = (data.valid_samples, image.channels, image.size, image.size)
    images = torch.empty(shape, dtype=torch.uint8)

    def decode(record: Record) -> Tensor:
        return original_view_of(opened(record.data), image)

    cores, held = available_cores(), _Rows(data)
    records = _records(data, held, progress)
    views = mapped_ahead(decode, records, threads=cores, ahead=4 * cores)
    for position, view in enumerate(views):
        images[position] = view
    return DecodedSplit(*held.tensors(), images=images)


def load_encoded(
    data: SplitData, pixels: BatchPixels, *, threads: int, progress: Progress | None = None
) -> EncodedSplit:
    """Read the files of a whole split into memory, and the targets that `pixels` will need."""
    held = _Rows(data)
    files = [record.data for record in _records(data, held, progress)]
    of_views = held.of_views(pixels.choice.count) if pixels.choice else {}
    return EncodedSplit(*held.tensors(), files=files, threads=threads, of_views=of_views)


class _Rows:
    """Labels and indices of the samples of a split, as they are read."""

    def __init__(self, data: SplitData) -> None:
        self._data = data
        self._labels: list[Label | None] = []
        self._index: list[int] = []

    def add(self, number: int, record: Record) -> None:
        """Add a sample of tar `number`."""
        self._labels.append(record.label)
        self._index.append(self._data.manifest.first_index(number) + record.row)

    def tensors(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return labels, indices and targets."""
        data, index = self._data, torch.tensor(self._index, dtype=torch.int64)
        split = data.manifest.split
        targets = {n: torch.from_numpy(f.read(split))[index] for n, f in data.features.items()}
        return label_tensor(self._labels, data.manifest), index, targets

    def of_views(self, count: int) -> dict[str, Tensor]:
        """Return the targets (count, N, width) of stored views, by feature."""
        found = {}
        for name, feature in self._data.viewed().items():
            shape = (count, len(self._index), feature.width)
            found[name] = torch.empty(
                shape, dtype=torch.from_numpy(feature.read("train", 0, 0)).dtype
            )
            for number, rows in enumerate(found[name]):
                rows[:] = torch.from_numpy(feature.read(view_part(number)))[self._index]
        return found


def _records(data: SplitData, held: _Rows, progress: Progress | None) -> Iterator[Record]:
    progress = progress or Silent()
    progress.start(f"load {data.manifest.split}", data.valid_samples, "images")
    for number, samples in enumerate(data.samples_by_shard):
        for record in data.records(number):
            held.add(number, record)
            yield record
        progress.advance(samples)


class ResidentLoader(Loader):
    """Training batches from memory, in a new permutation of all samples every epoch."""

    def __init__(
        self,
        split: HeldSplit,
        pixels: BatchPixels,
        batch_size: int,
        *,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        super().__init__(len(split) // (batch_size * world_size))
        self._split, self._pixels = split, pixels
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size

    def _epoch_batches(self, epoch: int, skip: int) -> Iterator[Batch]:
        order = torch.randperm(len(self._split), generator=generator(self._seed, epoch))
        size = self._batch_size
        starts = (
            (number * self._world_size + self._rank) * size for number in range(skip, len(self))
        )
        chosen = (order[start : start + size] for start in starts)
        return self._split.batches(chosen, self._pixels, epoch)
