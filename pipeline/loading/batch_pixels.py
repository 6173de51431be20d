"""From the image files of a batch to its pixels: original views, and the draws of random ones.

The draws of a view follow from (seed, stream, epoch, sample, view) alone: a resumed epoch, and
other numbers of workers or processes, give the same views.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.base.devices import sent
from pipeline.base.seeds import numbers_of
from pipeline.images.cutting import cut_views
from pipeline.images.decoding import ImageFile, opened
from pipeline.images.original_view import ImageOptions
from pipeline.images.random_views import (
    Augmentation,
    AugmentationOptions,
    DrawnView,
    build_augmentation,
)
from pipeline.images.stored_views import StoredViewOptions, stored_view
from pipeline.images.view_options import GLOBAL, ViewForm
from pipeline.loading.batch import Batch, SplitData
from pipeline.loading.view_choice import ViewChoice


@dataclass(frozen=True)
class RandomViews:
    """The random views that a loader draws for each image, one of each of `forms`, by one policy.

    Loaders of one run with different streams draw differently. Without `original`, the batch's
    images may be missing: an empty tensor where views are cut from files. With `stored`, the boxes
    and flips are those of stored views, and the views bring the targets that are stored of them.
    """

    augmentation: AugmentationOptions
    forms: tuple[ViewForm, ...] = (GLOBAL,)
    stream: int = 0
    original: bool = True
    stored: StoredViewOptions | None = None


class BatchPixels:
    """Makes the pixels of batches of one split."""

    def __init__(self, data: SplitData, views: RandomViews | None, *, seed: int) -> None:
        self._image, self._views, self._seed = data.image, views, seed
        self._augmentations = _augmentations(views, data.image) if views else []
        self.choice: ViewChoice | None = None
        if views is not None and views.forms and views.stored is not None:
            samples = data.manifest.samples_per_shard
            self.choice = ViewChoice(
                views.stored.count, len(views.forms), seed=seed, samples_per_shard=samples
            )
        self._cut = self._views_cut_from_files(data)
        self.from_files = bool(self._cut)
        # A view that is not cut from the file is cut from the original view.
        every = len(self._cut) == len(self._augmentations)
        self._original = not self._cut or not every or (views is not None and views.original)

    def _views_cut_from_files(self, data: SplitData) -> list[int]:
        """Return the numbers of the views that are cut from files and not from original views."""
        if self.choice is not None:
            return [*range(len(self._augmentations))]
        boxed = [number for number, a in enumerate(self._augmentations) if a.box is not None]
        return [] if boxed and _have_the_views_size(data) else boxed

    def of(
        self, files: Sequence[bytes], index: Tensor, epoch: int
    ) -> tuple[Tensor, list[DrawnView]]:
        """Return original views (B, C, size, size), uint8, and random ones, of image files."""
        drawn, image = self.drawn(index, epoch), self._image
        sizes = [image.size] * self._original + [self._augmentations[n].size for n in self._cut]
        pixels = [
            torch.empty((len(files), image.channels, size, size), dtype=torch.uint8)
            for size in sizes
        ]
        cut = self._cutting(drawn, index, epoch)
        for row, data in enumerate(files):
            for rows, view in zip(pixels, cut(opened(data), row), strict=True):
                rows[row] = view
        none = torch.empty((len(files), 0), dtype=torch.uint8)
        originals = pixels.pop(0) if self._original else none
        crops = dict(zip(self._cut, pixels, strict=True))
        return originals, [view._replace(crops=crops.get(n)) for n, view in enumerate(drawn)]

    def _cutting(
        self, drawn: Sequence[DrawnView], index: Tensor, epoch: int
    ) -> Callable[[ImageFile, int], list[Tensor]]:
        """Return what cuts the views (C, size, size), uint8, of the file of a batch's row."""
        image, views = self._image, self._views
        if views is None or not self._cut:
            return lambda file, _: cut_views(file, image, original=True)
        own = [self._augmentations[number] for number in self._cut]
        cut = partial(
            cut_views,
            image=image,
            sizes=[augmentation.size for augmentation in own],
            original=self._original,
            cubic=own[0].cubic,  # a matter of the policy
        )

        def stored(file: ImageFile, row: int) -> list[Tensor]:
            found = [stored_view(options, file, number) for number in numbers[:, row].tolist()]
            pixels = cut(file, boxes=np.concatenate([view.box for view in found]))
            for place, view in enumerate(found, int(self._original)):
                if view.flipped:
                    pixels[place] = pixels[place].flip(-1)
            return pixels

        def random(file: ImageFile, row: int) -> list[Tensor]:
            boxes = [
                augmentation.boxes(drawn[n].numbers[row : row + 1], file.height, file.width)
                for n, augmentation in zip(self._cut, own, strict=True)
            ]
            return cut(file, boxes=np.concatenate(boxes))

        if self.choice is None or views.stored is None:
            return random
        options, numbers = views.stored, self.choice.of_rows(index, epoch)
        return stored

    def drawn(self, index: Tensor, epoch: int) -> list[DrawnView]:
        """Return the draws of random views of samples, by their index (B,) in the split."""
        if self._views is None:
            return []
        seeds, drawn = (self._seed, self._views.stream, epoch), []
        for number, augmentation in enumerate(self._augmentations):
            own = numbers_of(index, augmentation.numbers, *seeds, number)
            if self.choice is not None:
                own[:, augmentation.crop.count] = 1  # no flip besides the stored one
            drawn.append(DrawnView(own))
        return drawn


def _augmentations(views: RandomViews, image: ImageOptions) -> list[Augmentation]:
    made = {f: build_augmentation(views.augmentation, image, f) for f in {*views.forms}}
    return [made[form] for form in views.forms]


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
