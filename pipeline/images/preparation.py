"""Preparing images for a representation: one image at a time on the CPU, then batches anywhere.

Hand-crafted representations are computed from the normalised original view; teachers prepare
images in their own way. All start from an image file.
"""

from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from torch import Tensor

from pipeline.images.cutting import Box, cut_views, part_of_whole
from pipeline.images.decoding import ImageFile, opened
from pipeline.images.original_view import ImageOptions, eight_bits, normalise, original_view
from pipeline.images.stored_views import StoredView, StoredViewOptions, stored_view


class Preparation(Protocol):
    """Turns one image into a tensor; equal preparations give equal tensors.

    It has two steps: one for each image on the CPU, and one for a batch on any device. Together
    they give what a call gives, bit for bit.
    """

    def __call__(self, image: Image.Image) -> Tensor:
        """Return one prepared image (C, H, W), float32."""
        ...

    def pixels(self, image: ImageFile) -> Tensor:
        """Return the image (C, H, W) as `finish` takes it: uint8, where 8 bits hold it."""
        ...

    def view(self, image: ImageFile, view: StoredView) -> Tensor:
        """Return a stored view of an image, likewise: its box, resized to the same size."""
        ...

    def finish(self, pixels: Tensor) -> Tensor:
        """Return prepared images (B, C, H, W), float32, on the device of their pixels."""
        ...

    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...


@dataclass(frozen=True)
class OriginalView:
    """The preparation of hand-crafted representations: the normalised original view."""

    options: ImageOptions

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the normalised original view (C, size, size), float32."""
        return self.finish(self.pixels(opened(image)))

    def pixels(self, image: ImageFile) -> Tensor:
        """Return the original view (C, size, size), uint8."""
        return original_view(image.decoded(), self.options)

    def view(self, image: ImageFile, view: StoredView) -> Tensor:
        """Return a stored view (C, size, size), uint8."""
        size = (self.options.size, self.options.size)
        shown = view.cut(image.decoded()).convert("L" if self.options.channels == 1 else "RGB")
        return eight_bits(shown.resize(size, Image.Resampling.BICUBIC))

    def finish(self, pixels: Tensor) -> Tensor:
        """Return normalised original views (..., C, size, size), float32."""
        return normalise(pixels, self.options)


@dataclass(frozen=True)
class FastPreparation:
    """What torchvision's Resize, CenterCrop and Normalize show, by the decoder of random views.

    Large JPEG files are decoded at a reduced scale. Without `cubic`, images are resized bilinearly.
    """

    options: ImageOptions
    cubic: bool = True

    def __call__(self, image: Image.Image) -> Tensor:
        """Return one prepared image (C, size, size), float32."""
        return self.finish(self.pixels(opened(image)))

    def pixels(self, image: ImageFile) -> Tensor:
        """Return the centre of the image (C, size, size), uint8."""
        shorter, size = self.options.resize or self.options.size, self.options.size
        short = min(image.height, image.width)
        # torchvision rounds sides down, and the corner to an even number of pixels.
        sides = [shorter * side // short for side in (image.height, image.width)]
        down, across = image.height / sides[0], image.width / sides[1]
        top, left = (round((side - size) / 2) for side in sides)
        box = Box(top * down, left * across, size * down, size * across)
        return part_of_whole(image, self.options, box, cubic=self.cubic)

    def view(self, image: ImageFile, view: StoredView) -> Tensor:
        """Return a stored view (C, size, size), uint8."""
        shown = cut_views(image, self.options, view.box, cubic=self.cubic)[0]
        return shown.flip(-1) if view.flipped else shown

    def finish(self, pixels: Tensor) -> Tensor:
        """Return prepared images (..., C, size, size), float32."""
        return normalise(pixels, self.options)


@dataclass(frozen=True)
class StoredViewPreparation:
    """The preparation of one of an image's stored views, otherwise as `base` prepares images."""

    base: Preparation
    options: StoredViewOptions
    number: int

    def __call__(self, image: Image.Image) -> Tensor:
        """Return one prepared view (C, H, W), float32."""
        return self.finish(self.pixels(opened(image))[None])[0]

    def pixels(self, image: ImageFile) -> Tensor:
        """Return the view (C, H, W) as `base` returns images."""
        return self.view(image, stored_view(self.options, image, self.number))

    def view(self, image: ImageFile, view: StoredView) -> Tensor:
        """Return another stored view as `base` does."""
        return self.base.view(image, view)

    def finish(self, pixels: Tensor) -> Tensor:
        """Return prepared views (B, C, H, W), float32."""
        return self.base.finish(pixels)
