"""Histograms of oriented gradients (Dalal and Triggs 2005), without block normalisation."""

import math
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.base.arguments import require_floating
from pipeline.base.errors import ConfigError
from pipeline.images.original_view import ImageOptions
from pipeline.representations.handcrafted import HandCrafted, in_working_precision
from pipeline.representations.representation import RepresentationOptions


class HogOptions(RepresentationOptions):
    """`kind: hog`: per channel, `bins` orientations over half a turn in cells of `cell` pixels."""

    kind: Literal["hog"] = "hog"
    bins: Annotated[int, Field(ge=2, le=360)] = 24
    cell: Annotated[int, Field(ge=1)] = 8

    def build(self, image: ImageOptions) -> HandCrafted:
        """Construct the representation; raises ConfigError if no cell fits the image."""
        if self.cell > image.size:
            raise ConfigError(
                f"hog's cell of {self.cell} pixels is larger than the image's side of "
                f"{image.size}; choose a cell of at most {image.size}."
            )
        transform = partial(hog, bins=self.bins, cell=self.cell)
        numbers = {"bins": self.bins, "cell": self.cell}
        return HandCrafted(transform, image, {"kind": self.kind, **numbers, "implementation": 1})


def hog(images: Tensor, *, bins: int = 24, cell: int = 8) -> Tensor:
    """Return (B, C, bins, H // cell, W // cell) from images (B, C, H, W), float32 or float64.

    A gradient's magnitude is shared linearly between the two bins nearest to its orientation,
    arctan(dy / dx) modulo pi. Bin k is centred on k pi / bins, and the last bin is next to the
    first. A cell holds the mean over its pixels; rows and columns beyond the last whole cell are
    left out. Gradients flow to images that require them; where an image is flat, they are 0. On a
    GPU the order of summation varies, so values differ by rounding between runs.
    """
    require_floating(images, "hog")
    images = in_working_precision(images)
    B, C, H, W = images.shape
    if bins < 2 or not 1 <= cell <= min(H, W):
        raise ConfigError(
            f"hog needs at least 2 bins, and cells of at least 1 pixel that fit into {H} x {W}; "
            f"found {bins} bins and cells of {cell}."
        )
    h, w = H // cell, W // cell
    dx, dy = _sobel(images)
    dx, dy = dx[..., : h * cell, : w * cell], dy[..., : h * cell, : w * cell]
    magnitude, angle = _polar(dx, dy)
    position = angle.remainder(math.pi) * (bins / math.pi)
    lower = position.floor()
    upper_share = magnitude * (position - lower)
    histogram = images.new_zeros(B, C, bins * h * w)
    cells = _cell_of_pixel(h, w, cell, images.device)
    for offset, share in ((0, magnitude - upper_share), (1, upper_share)):
        # Rounding can put an angle just below pi beyond the last bin, hence the modulo.
        index = (lower.long() + offset) % bins * (h * w) + cells
        histogram.scatter_add_(-1, index.flatten(2), share.flatten(2))
    return histogram.view(B, C, bins, h, w) / cell**2


def _polar(dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Return length and angle; where both derivatives are 0, there is no angle and no gradient."""
    if not dx.requires_grad:
        return torch.hypot(dx, dy), torch.atan2(dy, dx)
    flat = (dx == 0) & (dy == 0)
    dx, dy = torch.where(flat, 1.0, dx), torch.where(flat, 0.0, dy)
    return torch.where(flat, 0.0, torch.hypot(dx, dy)), torch.atan2(dy, dx)


def _sobel(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return Sobel derivatives along x and y; the border is replicated, so it adds no edge."""
    B, C, H, W = images.shape
    padded = F.pad(images.reshape(B * C, 1, H, W), (1, 1, 1, 1), mode="replicate")
    across = padded[..., 2:] - padded[..., :-2]
    down = padded[..., 2:, :] - padded[..., :-2, :]
    dx = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    dy = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return dx.view(B, C, H, W), dy.view(B, C, H, W)


def _cell_of_pixel(h: int, w: int, cell: int, device: torch.device) -> Tensor:
    """Return the number of each pixel's cell, (h * cell, w * cell)."""
    rows = torch.arange(h * cell, device=device) // cell
    columns = torch.arange(w * cell, device=device) // cell
    return rows[:, None] * w + columns
