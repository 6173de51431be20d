"""From the image files of a batch to its pixels: original views, and the draws of random ones.

The draws of a view follow from (seed, stream, epoch, sample, view) alone: a resumed epoch, and
other numbers of workers or processes, give the same views.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.base.devices import sent
from pipeline.base.seeds import numbers_of
from pipeline.images.cutting import cut_views, original_view_of
from pipeline.images.decoding import ImageFile, opened
from pipeline.images.random_views import (
    Augmentation,
    AugmentationOptions,
    DrawnView,
    build_augmentation,
)
from pipeline.images.stored_views import StoredViewOptions, stored_view
from pipeline.loading.batch import Batch, SplitData
from pipeline.loading.view_choice import ViewChoice


@dataclass(frozen=True)
class RandomViews:
    """The random views that a loader draws: `count` for each image, by one policy.

    Loaders of one run with different streams draw differently. Without `original`, the batch's
    images may be missing: an empty tensor where views are cut from files. With `stored`, the boxes
    and flips are those of stored views, and the views bring the targets that are stored of them.
    """

    augmentation: AugmentationOptions
    count: int = 1
    stream: int = 0
    original: bool = True
    stored: StoredViewOptions | None = None


class BatchPixels:
    """Makes the pixels of batches of one split."""

    def __init__(self, data: SplitData, views: RandomViews | None, *, seed: int) -> None:
        self._image, self._views, self._seed = data.image, views, seed
        self._augmentation = build_augmentation(views.augmentation, data.image) if views else None
        self.choice: ViewChoice | None = None
        if views is not None and views.count > 0 and views.stored is not None:
            samples = data.manifest.samples_per_shard
            self.choice = ViewChoice(
                views.stored.count, views.count, seed=seed, samples_per_shard=samples
            )
        self.from_files = self.choice is not None or (
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
        views = self._views
        if not self.from_files or views is None:
            originals = torch.empty((len(files), *shape), dtype=torch.uint8)
            for row, data in enumerate(files):
                originals[row] = original_view_of(opened(data), image)
            return originals, drawn
        first, cut = int(views.original), self._cutting(drawn, index, epoch)
        pixels = torch.empty((first + views.count, len(files), *shape), dtype=torch.uint8)
        for row, data in enumerate(files):
            pixels[:, row] = cut(opened(data), row)
        originals = pixels[0] if first else torch.empty((len(files), 0), dtype=torch.uint8)
        crops = zip(drawn, pixels[first:], strict=True)
        return originals, [DrawnView(view.numbers, cropped) for view, cropped in crops]

    def _cutting(
        self, drawn: Sequence[DrawnView], index: Tensor, epoch: int
    ) -> Callable[[ImageFile, int], Tensor]:
        """Return what cuts the views (V, C, size, size), uint8, of the file of a batch's row."""
        image, views, augmentation = self._image, self._views, self._augmentation
        if views is None or augmentation is None:
            raise ValueError("without random views, nothing is cut")

        def stored(file: ImageFile, row: int) -> Tensor:
            found = [stored_view(options, file, number) for number in numbers[:, row].tolist()]
            boxes = np.concatenate([view.box for view in found])
            pixels = cut_views(
                file, image, boxes, original=views.original, cubic=augmentation.cubic
            )
            for place, view in enumerate(found, int(views.original)):
                if view.flipped:
                    pixels[place] = pixels[place].flip(-1)
            return pixels

        def random(file: ImageFile, row: int) -> Tensor:
            own = np.stack([view.numbers[row] for view in drawn])
            boxes = augmentation.boxes(own, file.height, file.width)
            return cut_views(file, image, boxes, original=views.original, cubic=augmentation.cubic)

        if self.choice is None or views.stored is None:
            return random
        options, numbers = views.stored, self.choice.of_rows(index, epoch)
        return stored

    def drawn(self, index: Tensor, epoch: int) -> list[DrawnView]:
        """Return the draws of random views of samples, by their index (B,) in the split."""
        if self._views is None or self._augmentation is None:
            return []
        count, seeds = self._augmentation.numbers, (self._seed, self._views.stream, epoch)
        numbers = [numbers_of(index, count, *seeds, view) for view in range(self._views.count)]
        if self.choice is not None:
            for own in numbers:
                own[:, self._augmentation.crop.count] = 1  # no flip besides the stored one
        return [DrawnView(own) for own in numbers]


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
    numbers, crops, _ = batch["views"][number]
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
