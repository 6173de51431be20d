"""The *original view*: the deterministic image that a student sees, and its normalisation.

Hand-crafted representations are computed from the normalised original view; teachers prepare
images in their own way. Both start from a decoded image.
"""

from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.base.arguments import require_floating
from pipeline.base.errors import ArgumentError
from pipeline.base.options import Options
from pipeline.images.image_batch import checked_images, require_channels

Finite = Annotated[float, Field(allow_inf_nan=False)]


class ImageOptions(Options):
    """`dataset.image`: how the student sees an image."""

    size: Annotated[int, Field(ge=4, le=4096)]
    resize: Annotated[int, Field(ge=4, le=4096)] | None = None
    channels: Literal[1, 3] = 3
    mean: Annotated[tuple[Finite, ...], Field(strict=False)]
    std: Annotated[tuple[Annotated[Finite, Field(gt=0)], ...], Field(strict=False)]

    @model_validator(mode="after")
    def _consistent(self) -> "ImageOptions":
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(
                f"mean and std need one number per channel ({self.channels}), "
                f"not {len(self.mean)} and {len(self.std)}"
            )
        if not all(0 <= mean <= 1 for mean in self.mean):
            raise ValueError(f"mean is of values in [0, 1], not of bytes; found {self.mean}.")
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize ({self.resize}) must not be smaller than size ({self.size})")
        return self


def original_view(image: Image.Image, options: ImageOptions) -> Tensor:
    """Return the original view as (C, size, size), uint8.

    The shorter side is resized (bicubic, antialiased) to `options.resize`, or to `size`, and the
    centre is cropped. An image of exactly `size` is left as it is, unless `resize` is larger.
    """
    if not isinstance(image, Image.Image):
        raise ArgumentError(f"An image to prepare is a PIL image; found {type(image).__name__}.")
    image = image.convert("L" if options.channels == 1 else "RGB")
    shorter = options.resize or options.size
    if image.size != (shorter, shorter) or shorter != options.size:
        image = _resize_and_crop(image, shorter, options.size)
    return eight_bits(image)


def eight_bits(image: Image.Image) -> Tensor:
    """Return an image of mode L or RGB as (C, H, W), uint8."""
    array = np.array(image)
    if array.ndim == 2:
        array = array[:, :, None]
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def _resize_and_crop(image: Image.Image, shorter: int, size: int) -> Image.Image:
    top, left, height, width = _centre_box(*image.size, shorter, size)
    # Resize only the crop: a strip 1 pixel high, resized as a whole, would not fit into memory.
    box = (left, top, left + width, top + height)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def centre_box(width: int, height: int, options: ImageOptions) -> tuple[float, float, float, float]:
    """Return top, left, height and width of what the original view shows of an image, in pixels."""
    return _centre_box(width, height, options.resize or options.size, options.size)


def _centre_box(
    width: int, height: int, shorter: int, size: int
) -> tuple[float, float, float, float]:
    scale = shorter / min(width, height)
    resized_width, resized_height = (max(shorter, round(side * scale)) for side in (width, height))
    left, top = (resized_width - size) // 2, (resized_height - size) // 2
    across, down = width / resized_width, height / resized_height
    return top * down, left * across, size * down, size * across


def normalise(images: Tensor, options: ImageOptions) -> Tensor:
    """Normalise images (..., C, H, W) by mean and std; uint8 in [0, 255], floats in [0, 1].

    Raises ArgumentError for images of another form.
    """
    return normalise_views(checked_images(images, len(options.mean)), options)


def normalise_views(images: Tensor, options: ImageOptions) -> Tensor:
    """Normalise images that are known to be uint8, or floats in [0, 1], as random views are.

    Unlike `normalise` it does not look at the values, for which a host would wait for a GPU.
    """
    return standardise(images, options.mean, options.std)


def standardise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return (images - mean) / std for images (..., C, H, W), uint8 in [0, 255] or in [0, 1].

    All devices agree bit for bit on uint8: a GPU would multiply by the inverse of a plain number.
    """
    if images.dtype == torch.uint8:
        images = images.float() / _column((255.0,), torch.float32, images.device)
    means, deviations = (_column(v, images.dtype, images.device) for v in (mean, std))
    return (images - means) / deviations


def denormalise(images: Tensor, options: ImageOptions) -> Tensor:
    """Undo `normalise`: map images (..., C, H, W) of floats back to [0, 1]."""
    require_channels(images, len(options.mean))
    require_floating(images, "denormalise", dimensions=3)
    mean, std = (_column(v, images.dtype, images.device) for v in (options.mean, options.std))
    return images * std + mean


@lru_cache(maxsize=64)
def _column(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):  # cached, and also used with gradients
        return torch.tensor(values, dtype=dtype, device=device)[:, None, None]
