"""The geometry in which embeddings are compared, which distance-based protocols choose.

Cosines of a raw vector are those of its few largest components, and what helps one embedding hurts
another. So student and controls alike are compared in the geometry that serves each best on
validation images.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from pipeline.base.options import added
from pipeline.features.whitening import whitened

Exponent = Annotated[float, Field(ge=0, le=1)]
# The geometries to try: None for embeddings as they are, else the power of its deviation by which
# each component, centred, is divided.
Whitenings = Annotated[tuple[Exponent | None, ...], Field(strict=False, min_length=1)]
AS_THEY_ARE: Whitenings = added((None,))


def in_geometry(bank: Tensor, *others: Tensor, exponent: float | None) -> list[Tensor]:
    """Return embeddings (N, D) in a geometry whose mean and deviations are those of the bank."""
    if exponent is None:
        return [bank, *others]
    deviation, mean = torch.std_mean(bank, dim=0)
    return [whitened(rows, mean, deviation, exponent) for rows in (bank, *others)]
