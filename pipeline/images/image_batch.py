"""The one form of image batches before normalisation, for views, normalisation and representations.

(..., C, H, W), with C channels, as uint8 in [0, 255] or as floats in [0, 1]
"""

import torch
from torch import Tensor

from pipeline.base.arguments import require_tensor
from pipeline.base.errors import ArgumentError

ROUNDING = 1e-3  # floats may leave [0, 1] by so much


def unit_images(images: Tensor, channels: int) -> Tensor:
    """Return images (..., C, H, W) as floats in [0, 1]. Raises as `checked_images` does."""
    images = checked_images(images, channels)
    return images.float() / 255 if images.dtype == torch.uint8 else images


def checked_images(images: Tensor, channels: int) -> Tensor:
    """Return images (..., C, H, W) as they are.

    Raises ArgumentError if they have another number of channels, another type or another range.
    """
    require_channels(images, channels)
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ArgumentError(f"Images are uint8, or floats in [0, 1]; found {images.dtype}.")
    if images.numel():
        low, high = (float(bound) for bound in images.aminmax())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise ArgumentError(
                f"Images of floats lie in [0, 1]; found {low:g} to {high:g}. Give them as uint8, "
                "divide by 255, or leave out another normalisation."
            )
    return images


def require_channels(images: Tensor, channels: int) -> None:
    """Raise ArgumentError unless images are (..., C, H, W) with this number of channels."""
    require_tensor(images, "A batch of images")
    if images.ndim < 3 or images.shape[-3] != channels:
        raise ArgumentError(
            f"Expected images (..., {channels}, H, W), one channel per mean; "
            f"found {tuple(images.shape)}."
        )


def require_normalised(images: Tensor, shape: tuple[int, int, int]) -> None:
    """Raise ArgumentError unless images are floats (B, C, H, W) of this shape (C, H, W)."""
    require_tensor(images, "A batch of images")
    if tuple(images.shape[1:]) != shape or not images.is_floating_point():
        raise ArgumentError(
            f"Expected normalised images (B, {', '.join(map(str, shape))}) of floats; found "
            f"{images.dtype} of shape {tuple(images.shape)}."
        )
