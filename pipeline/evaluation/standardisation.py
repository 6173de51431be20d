"""Standardising features by their own mean and deviation, whatever their scale and offset."""

from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS_AT_ONCE = 2048
_ROUNDINGS = 2  # of a constant feature


@dataclass(frozen=True)
class Standardisation:
    """Mean and scale (D,), float64, of each feature; the scale of a constant one is infinite."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor, device: torch.device) -> "Standardisation":
        """Measure finite features (N, D). One that varies by rounding alone counts as constant."""
        blocks, count = torch.split(features, _ROWS_AT_ONCE), len(features)
        mean = torch.zeros(features.shape[1], dtype=torch.float64, device=device)
        high, low = torch.full_like(mean, -torch.inf), torch.full_like(mean, torch.inf)
        for block in blocks:
            rows = block.to(device, torch.float64)
            mean += (rows / count).sum(dim=0)
            high, low = torch.maximum(high, rows.amax(dim=0)), torch.minimum(low, rows.amin(dim=0))
        spread = torch.where(high > low, high - low, 1.0)  # so that squares are in range
        square = torch.zeros_like(mean)
        for block in blocks:
            rows = block.to(device, torch.float64)
            square += ((rows - mean) / spread).square().sum(dim=0) / count
        scale = spread * square.sqrt()
        eps = torch.finfo(torch.promote_types(features.dtype, torch.float32)).eps
        constant = (high <= low) | (scale <= _ROUNDINGS * eps * mean.abs())
        return cls(mean, torch.where(constant, torch.inf, scale))

    def apply(self, features: Tensor) -> Tensor:
        """Return standardised features (N, D), float32, on the device of the statistics."""
        found = torch.empty(features.shape, dtype=torch.float32, device=self.mean.device)
        for rows, block in zip(
            torch.split(found, _ROWS_AT_ONCE), torch.split(features, _ROWS_AT_ONCE), strict=True
        ):
            rows.copy_((block.to(self.mean) - self.mean) / self.scale)
        return found

    def to(self, device: torch.device) -> "Standardisation":
        """Return the same on a device."""
        return Standardisation(self.mean.to(device), self.scale.to(device))
