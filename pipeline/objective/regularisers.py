"""Regularisers of embeddings as published elsewhere: Barlow Twins and LeJEPA's SIGReg."""

import math
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from pipeline.base.errors import ArgumentError
from pipeline.dependence.means import mean_of_processes, process_count
from pipeline.objective.losses import require_equal_shapes, require_rows, wide

BATCH_NORM_EPSILON = 1e-5
LAST_NODE, NODES = 3.0, 17


def barlow(x: Tensor, y: Tensor, *, off_diagonal: float) -> Tensor:
    """Return the redundancy-reduction loss of two views (B, D), at least 0.

    With C (D, D) the cross-correlations of their dimensions over the batch, it is the sum of
    (1 - C_ii)^2 plus `off_diagonal` times the sum of the other C_ij^2 (Zbontar et al., arXiv
    2103.03230, where it is 0.0051). As there, a dimension is divided by the root of its biased
    variance plus `BATCH_NORM_EPSILON`, so a constant one has C_ij = 0.

    If D > B, the squares of C are summed through the B x B Gram matrices.
    """
    require_equal_shapes(x, y)
    require_rows(x)
    x, y = _normalised(wide(x)), _normalised(wide(y))
    B, D = x.shape
    diagonal = (x * y).sum(0) / B
    # The sum of all C_ij^2 is the trace of C^T C.
    squares = (x.T @ y).square() if D <= B else (x @ x.T) * (y @ y.T)
    others = squares.sum() / B**2 - diagonal.square().sum()
    loss: Tensor = (1 - diagonal).square().sum() + off_diagonal * others
    return loss


def _normalised(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, 0, correction=0)
    return (x - mean) / (variance + BATCH_NORM_EPSILON).sqrt()


def random_directions(count: int, width: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Return unit vectors (width, count), uniform on the sphere, of the type of `like`."""
    drawn = torch.randn(width, count, generator=generator, device=generator.device)
    directions: Tensor = drawn / drawn.norm(dim=0)
    return directions.to(like)


def gaussian_distance(x: Tensor, directions: Tensor, *, over_processes: bool = False) -> Tensor:
    """Return how far rows (B, D) are from a standard normal sample, at least 0 (SIGReg).

    For each direction a (D,), a column of `directions`, it is the statistic of Epps and Pulley
    (1983): B times the integral over t from -3 to 3 of (c - exp(-t^2 / 2))^2 + s^2, weighted by
    exp(-t^2 / 2), where c and s are the means over rows of the cosine and the sine of t a'x. The
    integral is a trapezoidal sum over 17 nodes from 0 on, doubled, and the result is the mean over
    directions (Balestriero and LeCun, LeJEPA, arXiv 2511.08544). With `over_processes`, rows are
    those of all processes, which must bring equally many and the same directions.
    """
    require_rows(x)
    if directions.ndim != 2 or len(directions) != x.shape[1] or not directions.shape[1]:
        raise ArgumentError(
            f"Directions are columns ({x.shape[1]}, count); found {tuple(directions.shape)}."
        )
    x = wide(x)
    nodes, window, weights = _quadrature_on(x.device, x.dtype)
    angles = (x @ directions)[..., None] * nodes  # (B, directions, nodes)
    means = torch.stack([angles.cos().mean(0), angles.sin().mean(0)])
    rows = len(x)
    if over_processes:
        means, rows = mean_of_processes(means), rows * process_count()
    cosine, sine = means
    error = (cosine - window).square() + sine.square()
    distance: Tensor = rows * (error @ weights).mean()
    return distance


def constant_gaussian_distance(rows: int) -> float:
    """Return `gaussian_distance` of `rows` equal rows at the origin, the best constant."""
    return rows * sum(weight * (1 - window) ** 2 for _, window, weight in _quadrature())


def _quadrature() -> Iterator[tuple[float, float, float]]:
    """Yield each node t, exp(-t^2 / 2), and the node's weight in the sum."""
    step = LAST_NODE / (NODES - 1)
    for place in range(NODES):
        window = math.exp(-((place * step) ** 2) / 2)
        at_end = place in (0, NODES - 1)
        yield place * step, window, (step if at_end else 2 * step) * window


@cache
@torch.inference_mode(False)  # validation may be the first to call it, and training uses it too
def _quadrature_on(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return nodes, windows and weights as rows (3, NODES), once for each device."""
    return torch.tensor(list(_quadrature()), dtype=torch.float64).T.to(device, dtype)
