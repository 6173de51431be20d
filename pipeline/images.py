"""From an encoded file to the *original view*: the deterministic image that a student sees.

Hand-crafted representations are computed from the normalised original view; teachers prepare
images their own way. Both start from `decode`.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.config import Options
from pipeline.errors import DataError

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs


class ImageOptions(Options):
    """`dataset.image`: how the student sees an image."""

    size: Annotated[int, Field(ge=4, le=4096)]
    resize: Annotated[int, Field(ge=4, le=4096)] | None = None
    channels: Literal[1, 3] = 3
    mean: Annotated[tuple[float, ...], Field(strict=False)]
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False)]

    @model_validator(mode="after")
    def _consistent(self) -> "ImageOptions":
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(
                f"mean and std need one number per channel ({self.channels}), "
                f"not {len(self.mean)} and {len(self.std)}"
            )
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize ({self.resize}) must not be smaller than size ({self.size})")
        return self


class Preparation(Protocol):
    """Turns one decoded image into a tensor; equal preparations give equal tensors."""

    def __call__(self, image: Image.Image) -> Tensor:
        """Return one prepared image (C, H, W), float32."""
        ...

    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...


def decode(data: bytes) -> Image.Image:
    """Decode an image file to mode L or RGB, upright, without alpha.

    EXIF rotation is applied, transparency is laid over white, palettes, CMYK and 16-bit
    greys are converted. Raises DataError if the bytes are not a whole image, or if it has
    more than `MAX_PIXELS` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"An image of {image.width} x {image.height} pixels is above the limit of "
                    f"{MAX_PIXELS} pixels; scale it down first."
                )
            image.load()
            return _plain(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"Not a readable image: {error}.") from error


def _plain(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        values = np.asarray(image, dtype=np.float64)
        if image.mode != "F" or values.max(initial=0) > 255:
            values = values / 257  # 16 bits to 8: 65535 -> 255
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8), mode=None)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def original_view(image: Image.Image, options: ImageOptions) -> Tensor:
    """Return the original view as (C, size, size), uint8.

    An image of exactly that size is taken as it is; any other has its shorter side resized
    (bicubic, antialiased) to `options.resize`, or to `size`, and its centre cropped.
    """
    image = image.convert("L" if options.channels == 1 else "RGB")
    if image.size != (options.size, options.size):
        image = _resize_and_crop(image, options.resize or options.size, options.size)
    array = np.array(image)
    if array.ndim == 2:
        array = array[:, :, None]
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def _resize_and_crop(image: Image.Image, shorter: int, size: int) -> Image.Image:
    scale = shorter / min(image.size)
    width, height = (max(shorter, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


def normalise(images: Tensor, options: ImageOptions) -> Tensor:
    """Normalise images (..., C, H, W) by mean and std; uint8 in [0, 255], floats in [0, 1]."""
    if images.dtype == torch.uint8:
        images = images.float() / 255
    return (images - _column(options.mean, images)) / _column(options.std, images)


def denormalise(images: Tensor, options: ImageOptions) -> Tensor:
    """Return normalised images (..., C, H, W) to [0, 1]."""
    return images * _column(options.std, images) + _column(options.mean, images)


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


@dataclass(frozen=True)
class OriginalView:
    """The preparation of hand-crafted representations: the normalised original view."""

    options: ImageOptions

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the normalised original view (C, size, size), float32."""
        return normalise(original_view(image, self.options), self.options)
