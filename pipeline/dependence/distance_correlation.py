"""Distance correlation: how strongly two sets of vectors depend on each other.

With a_ij = ||x_i - x_j|| over the B rows of a batch, double-centred to A, and B likewise from y:
dCov^2 = mean(A * B), dVar^2 = mean(A * A), dCor^2 = dCov^2 / sqrt(dVar_x^2 dVar_y^2). There are
three statistics (Szekely, Rizzo and Bakirov 2007; Szekely and Rizzo 2013 for the last):

    dcor                    in [0, 1]; close to 1 even for independent vectors of many dimensions
    dcor_squared            its square
    dcor_squared_unbiased   dCor^2 from U-centred distances: about 0 under independence, may be
                            negative, undefined below 4 rows

All are invariant to scale, shift and rotation of either side, and to a permutation of the rows
of both. Everything is computed in float32, or in float64 for float64 rows, even inside autocast.
Rows of any scale that the type holds are brought near 1 first, since distances are squared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, distributed

from pipeline.base.arguments import require_matrix
from pipeline.base.errors import ArgumentError, TrainingError, unknown_name
from pipeline.base.square_root import safe_sqrt
from pipeline.dependence.distances import (
    ROUNDINGS,
    near_one,
    own_distances,
    pairwise_distances,
)
from pipeline.dependence.gathering import gather_rows
from pipeline.dependence.means import mean_of_processes, process_count

Statistic = Literal["dcor", "dcor_squared", "dcor_squared_unbiased"]
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

    It is 0 if either side is constant, and its gradient is then 0 too. NaN and infinity in the
    rows give NaN. Raises TrainingError if there are too few rows for the statistic, ArgumentError
    for a statistic that does not exist and for samples that do not go together.
    """
    x, y = _as_sample(x), _as_sample(y)
    if statistic not in MINIMUM_ROWS:
        raise ArgumentError(unknown_name("statistic", statistic, MINIMUM_ROWS))
    if len(x) != len(y):
        raise ArgumentError(f"Both samples need equally many rows; found {len(x)} and {len(y)}.")
    if x.shared != y.shared:
        raise ArgumentError("Both samples need to be shared by all processes, or neither.")
    if len(x) < MINIMUM_ROWS[statistic]:
        raise TrainingError(
            f"The statistic {statistic} needs at least {MINIMUM_ROWS[statistic]} rows in a batch; "
            f"found {len(x)}."
        )
    if statistic == "dcor_squared_unbiased":
        return _squared_correlation(x.u_centred, y.u_centred)
    squared = _squared_correlation(x.double_centred, y.double_centred)
    return safe_sqrt(squared) if statistic == "dcor" else squared


class Sample:
    """The rows (B, D) of one variable; distances are computed once for all its statistics.

    If `shared`, all processes hold the same rows, equally many from each. Each then computes only
    the distances of its own share of rows to all, and statistics are those of all distances.
    """

    def __init__(self, rows: Tensor, *, shared: bool = False) -> None:
        require_matrix(rows, "A sample")
        if not len(rows):
            raise ArgumentError("A sample is a matrix (B, D) of at least one row; found none.")
        self.rows = rows
        self.shared = shared and process_count() > 1
        share = len(rows) // process_count() if self.shared else len(rows)
        first = share * distributed.get_rank() if self.shared else 0
        self._own = slice(first, first + share)

    @classmethod
    def of_distances(cls, distances: Tensor) -> "Sample":
        """Return a sample with the given distances (B, B) between its rows.

        Raises ArgumentError unless they are symmetric, with 0 on the diagonal.
        """
        sample = cls(distances)
        sample.distances = near_one(distances)
        mirrored = sample.distances.T
        if sample.distances.shape != mirrored.shape or not (
            torch.allclose(mirrored, sample.distances, equal_nan=True)
            and not distances.diagonal().any()
        ):
            raise ArgumentError(
                "Distances between rows are a symmetric matrix with 0 on its diagonal; found "
                f"another one of shape {tuple(distances.shape)}."
            )
        return sample

    def __len__(self) -> int:
        return len(self.rows)

    def shuffled(self) -> "Sample":
        """Return the same rows in another order: each moved on by one, and the last one first.

        Rows of a batch come in random order, so each then meets the row of a random other image.
        """
        sample = Sample(self.rows.roll(1, 0))
        sample.distances = self.distances.roll((1, 1), (0, 1))
        return sample

    @cached_property
    def distances(self) -> Tensor:
        """Distances (B, B) between the rows, up to a factor, which no statistic depends on."""
        return pairwise_distances(self._near_one)

    @cached_property
    def _near_one(self) -> Tensor:
        return near_one(self.rows)

    @cached_property
    def _own_distances(self) -> Tensor:
        """Distances (b, B) of the rows of this process."""
        return own_distances(self._near_one, self._own) if self.shared else self.distances

    def _of_all(self, column: Tensor) -> Tensor:
        """Return a column (B, 1) with the numbers of all rows, from those of own rows (b, 1)."""
        return gather_rows(column) if self.shared else column

    @cached_property
    def double_centred(self) -> "Centred":
        """Distances minus their row and column means, plus the overall mean."""
        means = self._own_distances.mean(1, keepdim=True)
        all_means = self._of_all(means)
        matrix = self._own_distances - means - all_means.T + all_means.mean()
        return _centred(matrix, all_means.mean(), self.shared)

    @cached_property
    def u_centred(self) -> "Centred":
        """U-centred distances, with which dCov^2 is unbiased; the diagonal is 0."""
        B = len(self)
        if B < UNBIASED_MINIMUM_ROWS:
            raise TrainingError(
                f"The unbiased distance correlation needs at least {UNBIASED_MINIMUM_ROWS} rows "
                f"in a batch; found {B}. Use larger batches, or the statistic dcor_squared."
            )
        sums = self._own_distances.sum(1, keepdim=True) / (B - 2)
        all_sums = self._of_all(sums)
        matrix = self._own_distances - sums - all_sums.T + all_sums.sum() / (B - 1)
        numbers = torch.arange(B, device=matrix.device)
        hollow = matrix.masked_fill(numbers[self._own, None] == numbers, 0.0)
        return _centred(hollow, all_sums.mean() * (B - 2) / B, self.shared)


@dataclass(frozen=True)
class Centred:
    """Centred distances, their mean square, and whether that is only rounding.

    `matrix` is (B, B), or if `shared` the rows (b, B) of this process.
    """

    matrix: Tensor
    variance: Tensor
    degenerate: Tensor
    shared: bool


def _centred(matrix: Tensor, mean_distance: Tensor, shared: bool) -> Centred:
    variance = _mean(matrix.square(), shared)
    # If all rows are equally far apart, only rounding errors are left after U-centring.
    rounding = ROUNDINGS * torch.finfo(matrix.dtype).eps * mean_distance.detach()
    return Centred(matrix, variance, variance <= rounding.square(), shared)


def _mean(matrix: Tensor, shared: bool) -> Tensor:
    return mean_of_processes(matrix.mean()) if shared else matrix.mean()


def _squared_correlation(x: Centred, y: Centred) -> Tensor:
    # The normalisation of the means, B^2 or B (B - 3), cancels in the ratio.
    covariance = _mean(x.matrix * y.matrix, x.shared)
    degenerate = x.degenerate | y.degenerate
    scale = _root(x.variance, degenerate) * _root(y.variance, degenerate)
    return torch.where(degenerate, 0.0, covariance / scale)


def _root(variance: Tensor, degenerate: Tensor) -> Tensor:
    return torch.where(degenerate, 1.0, variance).sqrt()


def _as_sample(rows: "Tensor | Sample") -> Sample:
    return rows if isinstance(rows, Sample) else Sample(rows)
