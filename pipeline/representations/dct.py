"""The two-dimensional discrete cosine transform of each channel.

It is the unnormalised DCT-II, as in SciPy's `dctn(type=2, norm=None)`. An orthonormal DCT would
be an isometry: its distances, hence its distance correlation, would be those of the pixels.
Without normalisation, constant rows and columns weigh more, by a factor of sqrt(2).
"""

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from pipeline.images.original_view import ImageOptions
from pipeline.representations.handcrafted import HandCrafted, in_working_precision
from pipeline.representations.representation import RepresentationOptions


class DctOptions(RepresentationOptions):
    """`kind: dct`: the unnormalised DCT-II of each channel, (C, H, W) flattened."""

    kind: Literal["dct"] = "dct"

    def build(self, image: ImageOptions) -> HandCrafted:
        """Construct the representation; it fits every image."""
        return HandCrafted(dct_2d, image, {"kind": self.kind, "implementation": 1})


def dct_2d(images: Tensor) -> Tensor:
    """Return the coefficients of images (..., H, W), float32 or float64, in the same shape.

    y[k, l] = 4 sum_mn x[m, n] cos(pi k (2m + 1) / 2H) cos(pi l (2n + 1) / 2W)
    """
    images = in_working_precision(images)
    H, W = images.shape[-2:]
    across, down = (_cosines(side, images.dtype, images.device) for side in (W, H))
    return down @ images @ across.T


@lru_cache(maxsize=8)
def _cosines(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return 2 cos(pi k (2n + 1) / 2N) as (k, n)."""
    with torch.inference_mode(mode=False):  # cached, and also used with gradients
        k = torch.arange(side)[:, None]
        n = torch.arange(side)[None, :]
        # The cosine's period is 4N steps; reducing integers keeps all digits of large angles.
        steps = k * (2 * n + 1) % (4 * side)
        return (2 * torch.cos(steps.double() * (math.pi / (2 * side)))).to(device, dtype)
