"""Distance correlation: how strongly two sets of vectors depend on each other.

With a_ij = ||x_i - x_j|| over the B rows of a batch, double-centred to A, and B likewise from y:
dCov^2 = mean(A * B), dVar^2 = mean(A * A), dCor^2 = dCov^2 / sqrt(dVar_x^2 dVar_y^2). Three
statistics are offered (Szekely, Rizzo and Bakirov 2007; Szekely and Rizzo 2013 for the last):

    dcor                    in [0, 1]; between independent vectors of many dimensions close to 1
    dcor_squared            its square
    dcor_squared_unbiased   dCor^2 by U-centred distances: about 0 under independence, may be
                            negative, undefined below 4 rows

All are invariant to scale, shift and rotation of either side and to a common order of the rows.
Everything is computed in float32, or float64 where the rows are, inside autocast too.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from pipeline.errors import TrainingError

Statistic = Literal["dcor", "dcor_squared", "dcor_squared_unbiased"]

# Squared distances below this many roundings of the squared norms are rounding themselves.
ROUNDINGS = 8
UNBIASED_MINIMUM_ROWS = 4
MINIMUM_ROWS: Mapping[Statistic, int] = {
    "dcor": 2,
    "dcor_squared": 2,
    "dcor_squared_unbiased": UNBIASED_MINIMUM_ROWS,
}


def distance_correlation(
    x: "Tensor | Sample", y: "Tensor | Sample", *, statistic: Statistic = "dcor"
) -> Tensor:
    """Return the distance correlation of two samples, rows (B, D) and (B, E), as a scalar.

    It is 0 where either side is constant, and its gradient is then 0 too. NaN and infinity in
    the rows give NaN. Raises TrainingError if the statistic is undefined for so few rows.
    """
    x, y = _as_sample(x), _as_sample(y)
    if len(x) != len(y):
        raise ValueError(f"Both samples need the same rows; found {len(x)} and {len(y)}.")
    if statistic == "dcor_squared_unbiased":
        return _squared_correlation(x.u_centred, y.u_centred)
    squared = _squared_correlation(x.double_centred, y.double_centred)
    return safe_sqrt(squared) if statistic == "dcor" else squared


class Sample:
    """The rows (B, D) of one variable; distances are computed once for all its statistics."""

    def __init__(self, rows: Tensor) -> None:
        if rows.ndim != 2 or len(rows) == 0:
            raise ValueError(f"A sample is a matrix (B, D) of rows; found {tuple(rows.shape)}.")
        self.rows = rows

    @classmethod
    def of_distances(cls, distances: Tensor) -> "Sample":
        """Return the sample of rows that have these distances (B, B) between them."""
        sample = cls(distances)
        sample.distances = distances
        return sample

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def distances(self) -> Tensor:
        """Distances (B, B) between the rows."""
        return pairwise_distances(self.rows)

    @cached_property
    def double_centred(self) -> "Centred":
        """Distances minus the means of their row and column, plus the mean of all."""
        means = self.distances.mean(1, keepdim=True)
        matrix = self.distances - means - means.T + means.mean()
        return _centred(matrix, self.distances)

    @cached_property
    def u_centred(self) -> "Centred":
        """U-centred distances: sums over the other rows make dCov^2 unbiased, diagonal 0."""
        B = len(self)
        if B < UNBIASED_MINIMUM_ROWS:
            raise TrainingError(
                f"The unbiased distance correlation needs at least {UNBIASED_MINIMUM_ROWS} rows "
                f"in a batch; found {B}. Use larger batches, or the statistic dcor_squared."
            )
        sums = self.distances.sum(1, keepdim=True) / (B - 2)
        matrix = self.distances - sums - sums.T + sums.sum() / (B - 1)
        hollow = matrix.masked_fill(torch.eye(B, dtype=torch.bool, device=matrix.device), 0.0)
        return _centred(hollow, self.distances)


def pairwise_distances(x: Tensor) -> Tensor:
    """Return the Euclidean distances (B, B) between rows (B, D); symmetric, zero on the diagonal.

    Through the Gram matrix of the centred rows, whose norms are then no larger than the data's
    spread: a distance d between rows of centred norm r has an error of about eps r^2 / d, that
    is some 2e-7 relative in float32 for rows that are spread out. Distances below 4 sqrt(eps) r
    at most (1.4e-3 r in float32) cannot be told from rounding and are 0, as is their gradient.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    distances: Tensor = _Distances.apply(wide)
    return distances


def safe_sqrt(x: Tensor) -> Tensor:
    """Return the root of x where x > 0, else 0, where its gradient is 0 too; NaN stays NaN."""
    zero = x <= 0
    # The inner `where` keeps the infinite slope at 0 out of the chain rule: 0 * inf is NaN.
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x).sqrt())


def gather_rows(x: Tensor) -> Tensor:
    """Return the rows (W B, D) of all W ranks in their order, from each rank's rows (B, D).

    Every rank must call it, with equally many rows. Its gradient adds up what all ranks send
    back, so parameter gradients averaged over ranks, as DistributedDataParallel does, are those
    of one process with the whole batch. Without a process group `x` is returned.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Products of float32 matrices in float32: no autocast, no TF32, no bfloat16.

    TF32's 11 bits would leave nothing of the difference |x|^2 + |y|^2 - 2xy. The settings of
    the process are put back at the end.
    """
    backends: Any = torch.backends
    settings = (backends.cuda.matmul, backends.mkldnn.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


@dataclass(frozen=True)
class Centred:
    """A centred distance matrix (B, B), the mean of its squares, and whether that is rounding."""

    matrix: Tensor
    variance: Tensor
    degenerate: Tensor


def _centred(matrix: Tensor, distances: Tensor) -> Centred:
    variance = matrix.square().mean()
    # Rows all equally far apart have nothing left after U-centring but rounding.
    rounding = ROUNDINGS * torch.finfo(matrix.dtype).eps * distances.detach().mean()
    return Centred(matrix, variance, degenerate=variance <= rounding.square())


def _squared_correlation(x: Centred, y: Centred) -> Tensor:
    # Either normalisation of the means, by B^2 or by B (B - 3), cancels in the ratio.
    covariance = (x.matrix * y.matrix).mean()
    degenerate = x.degenerate | y.degenerate
    scale = _root(x.variance, degenerate) * _root(y.variance, degenerate)
    return torch.where(degenerate, 0.0, covariance / scale)


def _root(variance: Tensor, degenerate: Tensor) -> Tensor:
    return torch.where(degenerate, 1.0, variance).sqrt()


def _as_sample(rows: "Tensor | Sample") -> Sample:
    return rows if isinstance(rows, Sample) else Sample(rows)


class _Distances(torch.autograd.Function):
    """`pairwise_distances`, with the gradient as one product instead of a chain of (B, B) steps.

    d a_ij / d x_i = (x_i - x_j) / a_ij, so with w_ij = g_ij / a_ij, symmetrised, the gradient
    is diag(w 1) x - w x; it does not see the shift by which the rows are centred.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with full_precision(x.device):
            centred = x - x.mean(0)
            gram = centred @ centred.T
        norms = gram.diagonal()
        squared_norms = norms[:, None] + norms
        squared = gram.mul_(-2).add_(squared_norms)
        noise = squared_norms.mul_(ROUNDINGS * torch.finfo(x.dtype).eps)
        distances = torch.where(squared <= noise, 0.0, squared).sqrt_().fill_diagonal_(0.0)
        ctx.save_for_backward(centred, distances)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        centred: Tensor
        distances: Tensor
        centred, distances = ctx.saved_tensors
        weights = torch.where(distances == 0, 0.0, gradient / distances)
        weights = weights + weights.T
        with full_precision(centred.device):
            return weights.sum(1, keepdim=True) * centred - weights @ centred


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        first: int = ctx.rows * distributed.get_rank()
        return total[first : first + ctx.rows]
