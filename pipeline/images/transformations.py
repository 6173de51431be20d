"""Fixed transformations of original views, under which robustness is measured.

Random views teach; these examine. An image is transformed alike in every run, for every subject.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.base.seeds import generator

DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up


@dataclass(frozen=True)
class Transformation:
    """One kind of change, by one amount; what it uncovers is black.

    A `shift` is by a share of the side, to the right, down, left or up for one image after the
    other; a `rotation` by degrees, to either side in turn; a `scale` by a factor about the centre;
    `noise` is Gaussian, by its deviation, where black is 0 and white 1.
    """

    kind: Literal["shift", "rotation", "scale", "noise"]
    amount: float

    @property
    def name(self) -> str:
        """The kind and the amount."""
        return f"{self.kind}_{self.amount:g}"

    def __call__(self, views: Tensor, *, first: int, seed: int) -> Tensor:
        """Transform views (B, C, S, S), uint8; they are the images from number `first` on."""
        images = views.float() / 255
        numbers = range(first, first + len(views))
        if self.kind == "noise":
            drawn = [torch.randn(views.shape[1:], generator=generator(seed, n)) for n in numbers]
            moved = images + self.amount * torch.stack(drawn)
        else:
            maps = torch.tensor([self._map(number) for number in numbers])
            grid = F.affine_grid(maps, list(views.shape), align_corners=False)
            moved = F.grid_sample(images, grid, align_corners=False)
        return (255 * moved).round().clamp(0, 255).to(torch.uint8)

    def _map(self, number: int) -> list[list[float]]:
        """Return the affine map (2, 3) from a place in the result to one in the image.

        Places are (x, y), from -1 to 1.
        """
        if self.kind == "shift":
            across, down = DIRECTIONS[number % len(DIRECTIONS)]
            return [[1, 0, -2 * self.amount * across], [0, 1, -2 * self.amount * down]]
        if self.kind == "scale":
            return [[1 / self.amount, 0, 0], [0, 1 / self.amount, 0]]
        angle = math.radians(self.amount) * (-1) ** number
        return [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]]
