"""Principal components: how many to fit, fitting them to a sample, and applying them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.base.arguments import require_matrix, require_width
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.precision import full_precision
from pipeline.base.progress import Progress, Silent
from pipeline.base.seeds import generator
from pipeline.features.projection import BLOCK_NUMBERS
from pipeline.representations.storing import ReduceOptions

# A sample with at most EXACT_LIMIT rows or columns is fitted exactly. Others are fitted by a sketch
# with SPARE_DIRECTIONS more directions than components, refined by POWER_ROUNDS power iterations.
EXACT_LIMIT = 1024
SPARE_DIRECTIONS = 64
POWER_ROUNDS = 2
PASSES = 2 * POWER_ROUNDS + 3  # over the sample or its sketch, all about equally long
# The most components to try if a bound on the fidelity decides their number.
MOST_COMPONENTS = 1024


@dataclass(frozen=True, eq=False)
class Pca:
    """Maps vectors to scores on principal axes: mean (D,), orthonormal basis (D, K), float32.

    `variance_ratio` (K,) is the share of the fitted sample's variance along each axis.
    """

    mean: Tensor
    basis: Tensor
    variance_ratio: Tensor

    @property
    def explained_variance(self) -> float:
        """Share of the fitted sample's variance along all K axes."""
        return min(1.0, float(self.variance_ratio.sum()))

    def first(self, components: int) -> "Pca":
        """Return the leading `components` only."""
        return Pca(self.mean, self.basis[:, :components], self.variance_ratio[:components])

    def to(self, device: torch.device | str) -> "Pca":
        """Return the components on a device."""
        return Pca(self.mean.to(device), self.basis.to(device), self.variance_ratio)

    def apply(self, x: Tensor) -> Tensor:
        """Map vectors (B, D) to scores (B, K)."""
        require_width(x, len(self.mean))
        with full_precision(x.device):
            return (x.float() - self.mean.to(x.device)) @ self.basis.to(x.device)


def components_of(options: ReduceOptions, images: int, width: int) -> int:
    """Return how many principal components to fit to `images` vectors of `width` numbers.

    N vectors span at most N - 1 dimensions around their mean. A further axis would be arbitrary
    and would not describe other images.
    """
    return min(options.pca or MOST_COMPONENTS, max(1, images - 1), width)


def fit_pca(sample: Tensor, components: int, *, seed: int, progress: Progress | None = None) -> Pca:
    """Fit a PCA with `components` components to vectors (N, D).

    The fit is exact if N or D is at most `EXACT_LIMIT`. Otherwise, it uses a randomised range
    finder (Halko, Martinsson and Tropp 2011, algorithm 4.4), which needs no D x D matrix.
    `progress` advances by `PASSES` in total. Raises ConfigError if the sample has fewer rows or
    columns than components, or one row; DataError if it has values that are not finite.
    """
    progress = progress or Silent()
    require_matrix(sample, "A sample")
    N, D = sample.shape
    if not 1 <= components <= min(N, D) or N < 2:
        raise ConfigError(
            f"{components} principal components need a sample of at least as many images, and "
            f"numbers per image; found {N} images of {D} numbers. Lower `pca`."
        )
    mean = sample.mean(0, dtype=torch.float64).float()
    centred = sample.float() - mean
    rows = max(1, BLOCK_NUMBERS // D)  # one sum in float64 would widen the whole sample at once
    total = sum(float(x.square().sum(dtype=torch.float64)) for x in torch.split(centred, rows))
    if not np.isfinite(total):
        raise DataError("The representation has values that are not finite: PCA cannot be fitted.")
    with full_precision(centred.device):
        condensed = _condense(centred, components, seed, progress)
        axes, variances = _principal_axes(condensed, components)
    progress.advance(1)
    even = torch.full((components,), 1 / components)  # nothing varies, so nothing is lost
    return Pca(mean, axes, variances / total if total > 0 else even)


def _condense(x: Tensor, components: int, seed: int, progress: Progress) -> Tensor:
    """Return rows (L, D) whose span nearly contains the leading axes of x (N, D)."""
    N, D = x.shape
    if min(N, D) <= EXACT_LIMIT:
        progress.advance(PASSES - 1)
        return x
    directions = min(components + SPARE_DIRECTIONS, N, D)
    found = x @ torch.randn(D, directions, generator=generator(seed, 1)).to(x.device)
    progress.advance(1)
    for _ in range(POWER_ROUNDS):
        across = x.T @ _orthonormal(found)
        progress.advance(1)
        found = x @ _orthonormal(across)
        progress.advance(1)
    rows = _orthonormal(found).T @ x
    progress.advance(1)
    return rows


def _principal_axes(rows: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Return the leading axes (D, K) of centred rows (N, D), and the sum of squares along each.

    They come from the smaller of the two Gram matrices, in float64. Axes beyond the rank of the
    rows are arbitrary but orthogonal to the others.
    """
    wide = len(rows) < rows.shape[1]
    values, vectors = torch.linalg.eigh(_gram(rows) if wide else _gram(rows.T))
    values, vectors = values.flip(0)[:components], vectors.flip(1)[:, :components].float()
    axes = _orthonormal(rows.T @ vectors if wide else vectors)
    return axes.contiguous(), values.clamp_min(0).float().cpu()


def _gram(x: Tensor) -> Tensor:
    """Return x x^T (N, N) in float64, summed over blocks of columns of x (N, D)."""
    gram = x.new_zeros((len(x), len(x)), dtype=torch.float64)
    for block in torch.split(x, max(1, BLOCK_NUMBERS // len(x)), dim=1):
        wide = block.double()
        gram += wide @ wide.T
    return gram


def _orthonormal(x: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(x)[0]
    return basis
