"""Local standard deviation: how much an image varies around each pixel."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.base.errors import ArgumentError
from pipeline.base.square_root import safe_sqrt
from pipeline.images.original_view import ImageOptions
from pipeline.representations.handcrafted import HandCrafted, in_working_precision
from pipeline.representations.representation import RepresentationOptions

WINDOW = 3


class LocalStdOptions(RepresentationOptions):
    """`kind: local_std`: the standard deviation in a 3 x 3 window, (C, H, W) flattened."""

    kind: Literal["local_std"] = "local_std"

    def build(self, image: ImageOptions) -> HandCrafted:
        """Construct the representation; it fits every image."""
        return HandCrafted(local_std, image, {"kind": self.kind, "implementation": 1})


def local_std(images: Tensor) -> Tensor:
    """Return the standard deviation around each pixel of (..., H, W), in the same shape.

    The window is 3 x 3; its nine squared deviations are divided by nine (the biased estimate).
    The image is mirrored at its border without repeating the outermost pixels, so both sides need
    at least two pixels. A flat window gives exactly zero, with a gradient of zero. Values are
    float32 unless the input is float64.
    """
    images = in_working_precision(images)
    *_, H, W = images.shape
    if min(H, W) < 2:
        raise ArgumentError(f"local_std needs sides of at least 2 pixels; found {H} x {W}.")
    flat = images.reshape(-1, 1, H, W)
    padded = F.pad(flat, (WINDOW // 2,) * 4, mode="reflect")
    # On differences from the centre, this one-pass formula cannot cancel: one of the nine is
    # zero, so (sum d)^2 / 9 <= 8/9 sum d^2 by the Cauchy-Schwarz inequality.
    total, squares = torch.zeros_like(flat), torch.zeros_like(flat)
    for row in range(WINDOW):
        for column in range(WINDOW):
            difference = padded[..., row : row + H, column : column + W] - flat
            total += difference
            squares.addcmul_(difference, difference)
    count = WINDOW**2
    variance = squares.sub_(total.square_() / count).div_(count)
    root = safe_sqrt(variance) if variance.requires_grad else variance.sqrt_()
    return root.view(images.shape)
