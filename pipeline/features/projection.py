"""Sparse random projections: drawing one, applying it, and which vectors need one first."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.base.arguments import require_width
from pipeline.base.errors import ConfigError
from pipeline.base.seeds import generator
from pipeline.representations.storing import ReduceOptions

# Wider representations are projected to this width before their PCA, so that the fitted sample
# stays small. A larger width would cost more than it gains in fidelity.
PROJECTED_WIDTH = 65_536
BLOCK_NUMBERS = 1 << 24


@dataclass(frozen=True, eq=False)
class Projection:
    """A sparse random projection from D to `width` numbers that preserves distances on average.

    Input i, multiplied by `signs[i]` (+-1), is added to output `outputs[i]`. Every output gets
    equally many inputs, give or take one. The error is no larger than that of a dense Gaussian
    matrix of that width: the squared length of v has a variance of at most
    2 / width (|v|^4 - sum_i v_i^4). But applying it takes only D additions per image, and storing
    it 2 D small numbers. A dense matrix would take gigabytes, or be drawn again for every batch.
    """

    outputs: Tensor
    signs: Tensor
    width: int

    @classmethod
    def draw(cls, input_width: int, width: int, *seeds: int) -> "Projection":
        """Draw a projection from `seeds`; ConfigError if `width` exceeds `input_width`."""
        if not 1 <= width <= input_width:
            raise ConfigError(
                f"A projection to {width} numbers needs one at least, and as many per image; "
                f"the representation has {input_width}. Lower it, or store all of them."
            )
        random = generator(*seeds)
        outputs = torch.randperm(input_width, generator=random) % width
        signs = torch.randint(0, 2, (input_width,), generator=random).float() * 2 - 1
        return cls(outputs, signs, width)

    def to(self, device: torch.device | str) -> "Projection":
        """Return the projection on a device."""
        return Projection(self.outputs.to(device), self.signs.to(device), self.width)

    def apply(self, x: Tensor) -> Tensor:
        """Map vectors (B, D) to (B, width), a block of rows at a time."""
        require_width(x, len(self.outputs))
        outputs, signs = self.outputs.to(x.device), self.signs.to(x.device)
        result = torch.zeros((len(x), self.width), device=x.device)
        rows = max(1, BLOCK_NUMBERS // x.shape[1])
        for part, sums in zip(torch.split(x, rows), torch.split(result, rows), strict=True):
            sums.index_add_(1, outputs, part.float() * signs)
        return result


def first_projection(width: int, options: ReduceOptions, *, seed: int) -> Projection | None:
    """Return the projection that precedes any fit to vectors of `width` numbers, or None."""
    if options.projection is not None:
        return Projection.draw(width, options.projection, seed)
    if options.by_components and width > PROJECTED_WIDTH:
        return Projection.draw(width, PROJECTED_WIDTH, seed)
    return None
