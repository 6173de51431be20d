"""From the image files of a batch to its pixels: original views, and the draws of random ones.

The draws of a view follow from (seed, stream, epoch, sample, view) alone: a resumed epoch, and
other numbers of workers or processes, give the same views.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.base.devices import sent
from pipeline.base.seeds import numbers_of
from pipeline.images.cutting import cut_views, original_view_of
from pipeline.images.decoding import opened
from pipeline.images.random_views import (
    Augmentation,
    AugmentationOptions,
    DrawnView,
    build_augmentation,
)
from pipeline.loading.batch import Batch, SplitData


@dataclass(frozen=True)
class RandomViews:
    """The random views that a loader draws: `count` for each image, by one policy.

    Loaders of one run with different streams draw differently. Without `original`, the batch's
    images may be missing: an empty tensor where views are cut from files.
    """

    augmentation: AugmentationOptions
    count: int = 1
    stream: int = 0
    original: bool = True


class BatchPixels:
    """Makes the pixels of batches of one split."""

    def __init__(self, data: SplitData, views: RandomViews | None, *, seed: int) -> None:
        self._image, self._views, self._seed = data.image, views, seed
        self._augmentation = build_augmentation(views.augmentation, data.image) if views else None
        self.from_files = (
            views is not None
            and views.count > 0
            and self._augmentation is not None
            and self._augmentation.box is not None
            and not _have_the_views_size(data)
        )

    def of(
        self, files: Sequence[bytes], index: Tensor, epoch: int
    ) -> tuple[Tensor, list[DrawnView]]:
        """Return original views (B, C, size, size), uint8, and random ones, of image files."""
        drawn, image = self.drawn(index, epoch), self._image
        shape = (image.channels, image.size, image.size)
        views, augmentation = self._views, self._augmentation
        if not self.from_files or views is None or augmentation is None or augmentation.box is None:
            originals = torch.empty((len(files), *shape), dtype=torch.uint8)
            for row, data in enumerate(files):
                originals[row] = original_view_of(opened(data), image)
            return originals, drawn
        first = int(views.original)
        pixels = torch.empty((first + views.count, len(files), *shape), dtype=torch.uint8)
        for row, data in enumerate(files):
            file = opened(data)
            numbers = np.stack([view.numbers[row] for view in drawn])
            boxes = augmentation.boxes(numbers, file.height, file.width)
            pixels[:, row] = cut_views(
                file, image, boxes, original=views.original, cubic=augmentation.box.cubic
            )
        originals = pixels[0] if first else torch.empty((len(files), 0), dtype=torch.uint8)
        cut = zip(drawn, pixels[first:], strict=True)
        return originals, [DrawnView(view.numbers, crops) for view, crops in cut]

    def drawn(self, index: Tensor, epoch: int) -> list[DrawnView]:
        """Return the draws of random views of samples, by their index (B,) in the split."""
        if self._views is None or self._augmentation is None:
            return []
        return [
            DrawnView(
                numbers_of(
                    index, self._augmentation.numbers, self._seed, self._views.stream, epoch, view
                )
            )
            for view in range(self._views.count)
        ]


def random_view(
    batch: Batch,
    augment: Augmentation,
    device: torch.device,
    *,
    number: int = 0,
    rows: Tensor | None = None,
) -> Tensor:
    """Return a random view of each image of a batch on a device, as its loader drew it.

    `rows` (B,) is a mask of the images that are meant, on the CPU. If the loader drew no views, one
    is drawn now, by torch's global generator.
    """

    def own(pixels: Tensor) -> Tensor:
        return sent(pixels if rows is None else pixels[rows], device)

    if not batch["views"]:
        return augment(own(batch["images"]))
    numbers, crops = batch["views"][number]
    numbers = numbers if rows is None else numbers[rows.numpy()]
    if crops is None:
        return augment(own(batch["images"]), DrawnView(numbers))
    return augment(batch["images"], DrawnView(numbers, own(crops)))


def _have_the_views_size(data: SplitData) -> bool:
    """Whether the files are original views: those of one tar, which is a random sample, tell."""
    size = data.image.size
    if (data.image.resize or size) != size:
        return False
    number = next((n for n, count in enumerate(data.samples_by_shard) if count), 0)
    files = (opened(record.data) for record in data.records(number))
    return all((file.width, file.height) == (size, size) for file in files)
