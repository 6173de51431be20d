"""Batches of a whole split in order, as validation reads it in every epoch."""

from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate, islice, pairwise

import numpy as np
import psutil
import torch

from pipeline.base.devices import available_cores
from pipeline.base.errors import DataError
from pipeline.base.progress import Progress
from pipeline.base.text import counted
from pipeline.base.threads import mapped_ahead
from pipeline.loading.batch import Batch, SplitData, label_tensor
from pipeline.loading.batch_pixels import BatchPixels, RandomViews
from pipeline.loading.resident import HeldSplit, load_decoded, load_encoded
from pipeline.shards.reading import Record

MEMORY_SHARE = 0.25  # of the available memory, that all processes of a host may take


class EvaluationLoader:
    """Batches of every valid sample of a split, once and in order in each iteration.

    Batches have nearly equal sizes, so that no short last one distorts the mean over batches. They
    have at most `batch_size` samples and at least `least`; if both cannot hold, there are fewer
    and larger ones. Every rank gets equally many. It keeps its own samples in memory from the first
    use, decoded, or as files where random `views` are cut from them; if they do not fit into
    `memory_share` of the available memory, it reads the tars in every iteration. Random views are
    the same in every iteration. Raises DataError if there are too few samples for `least` on every
    rank.
    """

    def __init__(
        self,
        data: SplitData,
        batch_size: int,
        *,
        least: int = 1,
        rank: int = 0,
        world_size: int = 1,
        views: RandomViews | None = None,
        seed: int = 0,
        memory_share: float = MEMORY_SHARE,
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
        self._data, self._pixels = data, BatchPixels(data, views, seed=seed)
        self._budget = memory_share * psutil.virtual_memory().available / world_size
        ends = list(accumulate(len(batch) for batch in own))
        self._slices = [slice(*pair) for pair in pairwise([0, *ends])]

    def __len__(self) -> int:
        return len(self._slices)

    def __iter__(self) -> Iterator[Batch]:
        if self._held is None:
            return self._read()
        return self._held.batches(self._slices, self._pixels, epoch=0)

    def preload(self) -> None:
        """Read what is kept in memory now rather than at the first use."""
        _ = self._held

    @cached_property
    def _held(self) -> HeldSplit | None:
        data, progress = self._data, self._progress
        if self._pixels.from_files:
            if data.encoded_bytes() > self._budget:
                return None
            return load_encoded(data, self._pixels, threads=available_cores(), progress=progress)
        if data.decoded_bytes() > self._budget:
            return None
        return load_decoded(data, progress=progress)

    def _read(self) -> Iterator[Batch]:
        data, manifest = self._data, self._data.manifest
        numbered = (
            (manifest.first_index(number) + record.row, record)
            for number in range(len(manifest.shards))
            for record in data.records(number)
        )
        groups = (list(islice(numbered, s.stop - s.start)) for s in self._slices)
        cores = available_cores()
        return mapped_ahead(self._batch, groups, threads=cores, ahead=cores)

    def _batch(self, samples: list[tuple[int, Record]]) -> Batch:
        data, split = self._data, self._data.manifest.split
        rows = [row for row, _ in samples]
        index = torch.tensor(rows)
        images, views = self._pixels.of([record.data for _, record in samples], index, epoch=0)
        first, last = rows[0], rows[-1] + 1
        return Batch(
            images=images,
            views=views,
            labels=label_tensor([record.label for _, record in samples], data.manifest),
            index=index,
            targets={
                name: torch.from_numpy(feature.read(split, first, last))[index - first]
                for name, feature in data.features.items()
            },
        )
