"""Which stored views of its images a run shows in each epoch."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.base.seeds import generator


class ViewChoice:
    """`views` of the `count` stored views of each image, the same ones for all images of a tar.

    So one array is read of a tar for each. In turns of `count` views, each is shown once, in an
    order that depends on the seed, the tar and the turn.
    """

    def __init__(self, count: int, views: int, *, seed: int, samples_per_shard: int) -> None:
        self.count, self._views, self._seed = count, views, seed
        self._samples_per_shard = samples_per_shard

    def of_shard(self, shard: int, epoch: int) -> list[int]:
        """Return the numbers of the stored views that a tar shows in an epoch, one per view."""
        places = range(epoch * self._views, (epoch + 1) * self._views)
        return [
            _order(self.count, self._seed, shard, place // self.count)[place % self.count]
            for place in places
        ]

    def of_rows(self, index: Tensor, epoch: int) -> "npt.NDArray[np.int64]":
        """Return these numbers for samples, by their index (B,) in the split, as (views, B)."""
        shards = (index // self._samples_per_shard).tolist()
        return np.array([self.of_shard(shard, epoch) for shard in shards], np.int64).T


@lru_cache(maxsize=4096)
def _order(count: int, *seeds: int) -> list[int]:
    order: list[int] = torch.randperm(count, generator=generator(*seeds)).tolist()
    return order
