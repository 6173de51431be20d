"""A scattering transform's constant tensors, for one device and one precision."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.representations.scattering_filters import FilterBank, crop_spectrum

Real = NDArray[np.float64]

# Terms of the low-pass below this share of the largest are rounding errors.
RANK_TOLERANCE = 1e-13


@dataclass(frozen=True)
class LowPass:
    """Convolution with the low-pass, subsampling and removal of the padding: two matrix products.

    The low-pass is a sum of R separable terms: one for a Gaussian, more for any other filter. A
    map U (M, N) becomes `left @ (U @ right)`; both matrices hold the terms side by side.
    """

    left: Tensor  # (h, M * R)
    right: Tensor  # (N, R * w)

    def __call__(self, maps: Tensor) -> Tensor:
        """Map (..., M, N) to (..., h, w)."""
        *batch, M, N = maps.shape
        rank = self.left.shape[1] // M
        w = self.right.shape[1] // rank
        columns = (maps.reshape(-1, N) @ self.right).view(-1, M * rank, w)
        result = torch.bmm(self.left.expand(columns.shape[0], -1, -1), columns)
        return result.view(*batch, *result.shape[1:])


@dataclass(frozen=True)
class Plan:
    """Everything that a transform needs besides its images."""

    rows: Tensor  # (M,), the image's row that each padded row copies
    columns: Tensor  # (N,)
    low_pass: tuple[LowPass, ...]  # one for each level of subsampling, by 2^level
    wavelets: dict[tuple[int, int], Tensor]  # (level, j) -> see `_aliases`


def make_plan(bank: FilterBank, shape: tuple[int, int], order: int, like: Tensor) -> Plan:
    """Cut and arrange the filters for images of `shape`, with the dtype and device of `like`."""
    J = bank.scales
    levels = range(J - 1 if order == 2 else 0)  # of the input to second-order wavelets
    scales = {(0, j) for j in range(J)} | {
        (level, j) for level in levels for j in range(level + 1, J)
    }
    return Plan(
        rows=_reflection(shape[0], bank.shape[0]).to(like.device),
        columns=_reflection(shape[1], bank.shape[1]).to(like.device),
        low_pass=tuple(_low_pass(bank, level, like) for level in range(J)),
        wavelets={
            (level, j): _aliases(crop_spectrum(bank.wavelets[j], level), 2 ** (j - level), like)
            for level, j in sorted(scales)
        },
    )


def _reflection(side: int, padded: int) -> Tensor:
    """Return the source of each padded position, mirrored at the outermost pixels' centres.

    If the padding is odd, the extra position is at the end.
    """
    period = 2 * (side - 1)
    position = (torch.arange(padded) - (padded - side) // 2) % period
    return torch.minimum(position, period - position)


def _low_pass(bank: FilterBank, level: int, like: Tensor) -> LowPass:
    kernel = np.fft.ifft2(crop_spectrum(bank.low_pass, level)).real
    u, weights, v = np.linalg.svd(kernel, full_matrices=False)
    terms = weights > RANK_TOLERANCE * weights[0]
    step = 2 ** (bank.scales - level)
    rows = _sampled_convolution(u[:, terms] * weights[terms], step)
    columns = _sampled_convolution(v[terms].T, step)
    left = rows.reshape(len(rows), -1)
    right = columns.transpose(1, 2, 0).reshape(columns.shape[1], -1)
    return LowPass(_tensor(left, like), _tensor(right, like))


def _sampled_convolution(kernels: Real, step: int) -> Real:
    """Return (m, M, R): circular convolution with kernels (M, R), at every `step`-th position.

    The first and the last of those positions lie in the padding and are left out.
    """
    side = len(kernels)
    position = np.arange(1, side // step - 1) * step
    sampled: Real = kernels[(position[:, None] - np.arange(side)) % side]
    return sampled


def _aliases(wavelets: Real, step: int, like: Tensor) -> Tensor:
    """Cut spectra (L, M, N) into the step * step parts that coincide after subsampling.

    Returns (step * step, L, m, n, 2), already multiplied by the factor of the mean over aliases
    and by the scale of the inverse transform. Each number is there twice, for a real and an
    imaginary part, so that applying a wavelet is one plain product of contiguous real numbers.
    """
    L, M, N = wavelets.shape
    m, n = M // step, N // step
    parts = wavelets.reshape(L, step, m, step, n).transpose(1, 3, 0, 2, 4)
    parts = parts.reshape(step * step, L, m, n) / (M * N)
    return _tensor(np.repeat(parts[..., None], 2, axis=-1), like)


def _tensor(values: Real, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like)
