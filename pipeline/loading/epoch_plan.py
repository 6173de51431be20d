"""The order of samples in an epoch: drawn from (seed, epoch), divided among ranks and workers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.base.seeds import generator


@dataclass(frozen=True)
class Segment:
    """Samples `first` to `last` (excluded) of those to read from one shard."""

    shard: int
    first: int
    last: int


def plan_epoch(
    samples: Sequence[int],
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    world_size: int = 1,
    workers: int = 1,
) -> list[list[list[Segment]]]:
    """Return segments[rank][worker], a list with a whole number of batches for each worker.

    `samples` is the number of samples to read from each shard, `batch_size` that of one rank.
    Every rank gets the same number of batches. Samples that do not fill a batch on every rank are
    left out, different ones in every epoch. Worker w of a rank serves the batches w, w + workers
    and so on, in the order in which a DataLoader asks for them.
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
    """Cut positions `first` to `last` (excluded) of the permuted sequence at shard borders."""
    slot = int(np.searchsorted(starts, first, side="right")) - 1
    while first < last:
        end = min(last, int(starts[slot + 1]))
        if end > first:
            begin = int(starts[slot])
            yield Segment(order[slot], first - begin, end - begin)
        first, slot = end, slot + 1
