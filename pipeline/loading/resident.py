"""Loading a split that fits in memory: decoded once and kept, fully permuted in every epoch."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from pipeline.base.errors import DataError
from pipeline.base.progress import Progress, Silent
from pipeline.base.seeds import generator
from pipeline.base.text import counted
from pipeline.images.decoding import decode
from pipeline.images.original_view import original_view
from pipeline.loading.batch import Batch, Loader, SplitData, label_tensor


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
    image, count = data.image, data.valid_samples
    progress.start(f"load {data.manifest.split}", count, "images")
    images = torch.empty((count, image.channels, image.size, image.size), dtype=torch.uint8)
    labels = []
    index = torch.empty(count, dtype=torch.int64)
    position = 0
    for number, samples in enumerate(data.samples_by_shard):
        for record in data.records(number):
            images[position] = original_view(decode(record.data), image)
            labels.append(record.label)
            index[position] = data.manifest.first_index(number) + record.row
            position += 1
        progress.advance(samples)
    split = data.manifest.split
    targets = {n: torch.from_numpy(f.read(split))[index] for n, f in data.features.items()}
    return ResidentSplit(images, label_tensor(labels, data.manifest), index, targets)


class EvaluationLoader:
    """Batches of every valid sample of a split, once and in order in each iteration.

    Batches have nearly equal sizes, so that no short last one distorts the mean over batches. They
    have at most `batch_size` samples and at least `least`; if both cannot hold, there are fewer
    and larger ones. Every rank gets equally many, and decodes its own samples at the first use.
    Raises DataError if there are too few samples for `least` on every rank.
    """

    def __init__(
        self,
        data: SplitData,
        batch_size: int,
        *,
        least: int = 1,
        rank: int = 0,
        world_size: int = 1,
        progress: Progress | None = None,
    ) -> None:
        self._progress = progress
        samples = data.valid_samples
        most = samples // (least * world_size)  # batches per rank
        if not most:
            raise DataError(
                f"{counted(samples, f'{data.manifest.split} images')}: too few for "
                f"{counted(world_size, 'processes')} with {counted(least, 'images')} each, which "
                f"a batch needs. Enlarge dataset.split.{data.manifest.split}, or use fewer devices."
            )
        count = world_size * min(most, -(-samples // (batch_size * world_size)))
        borders = np.linspace(0, samples, count + 1).round().astype(int).tolist()
        own = [range(*pair) for pair in pairwise(borders)][rank::world_size]
        if world_size > 1:
            index = data.indices()
            data = data.subset(index[position] for batch in own for position in batch)
        self._data = data
        ends = list(accumulate(len(batch) for batch in own))
        self._slices = [slice(*pair) for pair in pairwise([0, *ends])]

    def __len__(self) -> int:
        return len(self._slices)

    def __iter__(self) -> Iterator[Batch]:
        for rows in self._slices:
            yield self.resident.rows(rows)

    def preload(self) -> None:
        """Decode the split now rather than at the first use."""
        len(self.resident)

    @cached_property
    def resident(self) -> ResidentSplit:
        """The samples of this rank, decoded."""
        return load_resident(self._data, progress=self._progress)


class ResidentLoader(Loader):
    """Training batches from memory, in a new permutation of all samples every epoch."""

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
