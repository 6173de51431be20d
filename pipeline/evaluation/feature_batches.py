"""Batches of features that a classifier learns from by gradient descent, epoch after epoch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.base.seeds import seed_from
from pipeline.evaluation.subjects import Embed
from pipeline.images.random_views import Augmentation
from pipeline.loading.batch import NO_LABEL, Loader
from pipeline.loading.batch_pixels import random_view


@dataclass(frozen=True)
class Rows:
    """Features (N, D), and labels (N,) or (N, K), of the labelled images of a split."""

    features: Tensor
    labels: Tensor


class Batches(ABC):
    """Features and labels of labelled training images; each `iter()` is the next epoch."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed, self._steps = count, seed, 0

    def __len__(self) -> int:
        return self._count

    def _draw(self) -> None:
        """Seed the draws that follow by the seed and the number of the step."""
        torch.manual_seed(seed_from(self._seed, self._steps))
        self._steps += 1

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch."""


class StoredBatches(Batches):
    """Stored features, in a different order in each epoch."""

    def __init__(self, train: Rows, size: int, seed: int) -> None:
        super().__init__(max(1, len(train.labels) // size), seed)
        self._train, self._size = train, size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.empty(0, dtype=torch.int64)
        for number in range(len(self)):
            self._draw()
            if number == 0:
                order = torch.randperm(len(self._train.labels))
            rows = order[number * self._size : (number + 1) * self._size]
            yield self._train.features[rows], self._train.labels[rows]


@dataclass(frozen=True)
class EmbeddedViews:
    """How to compute features of views: load images, augment them on `device`, embed them."""

    loader: Callable[[int], Loader]
    augment: Augmentation
    embed: Embed
    device: torch.device


class ViewBatches(Batches):
    """Features of one view of each image; images without a label are omitted from their batch."""

    def __init__(self, images: EmbeddedViews, size: int, seed: int) -> None:
        self._images, self._loader = images, images.loader(size)
        super().__init__(len(self._loader), seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._loader:
            self._draw()
            labels = batch["labels"]
            known = labels != NO_LABEL
            if labels.ndim > 1:
                known = known.any(dim=1)
            images = self._images
            views = random_view(batch, images.augment, images.device, rows=known)
            yield images.embed(views), labels[known]
