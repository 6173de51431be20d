"""Euclidean distances between the rows of a batch, with a gradient that is finite everywhere."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.base.arguments import require_matrix
from pipeline.base.precision import full_precision

# Squared distances below this many rounding errors of the squared norms are only rounding.
ROUNDINGS = 8


def pairwise_distances(x: Tensor) -> Tensor:
    """Return the Euclidean distances (B, B) between rows (B, D); symmetric, zero on the diagonal.

    They are computed from the Gram matrix of the centred rows, whose norms are no larger than the
    data's spread. A distance d between rows of centred norm r has an error of about eps r^2 / d:
    about 2e-7 relative in float32 if rows are spread out. Distances below a bound of at most
    4 sqrt(eps) r (1.4e-3 r in float32) cannot be told from rounding and are 0, as are their
    gradients. Raises ArgumentError unless the rows are a matrix of real numbers.
    """
    require_matrix(x, "Rows")
    wide = x if x.dtype == torch.float64 else x.float()
    distances: Tensor = _Distances.apply(wide)
    return distances


def near_one(x: Tensor) -> Tensor:
    """Return rows (B, D) over a power of 2, by which the largest spread of a column is about 1.

    Squares of their distances are then neither too small nor too large for the type. Nothing is
    rounded, unless numbers are near the limits of the type.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    limit = -math.log2(torch.finfo(wide.dtype).tiny)
    high, low = wide.detach().amax(0), wide.detach().amin(0)
    spread, size = (high - low).amax(), torch.maximum(high.abs(), low.abs()).amax()
    spread = torch.where(spread == 0, 1.0, spread)  # if all rows are equal, they stay
    # Rows are added up before they are centred, which must not overflow.
    room = (limit - 2 - math.log2(len(wide)) - size.log2()).floor().clamp(max=limit)
    exponent = torch.minimum(-spread.log2().floor().clamp(-limit, limit), room)
    return wide * exponent.exp2()


def own_distances(x: Tensor, rows: slice) -> Tensor:
    """Return the rows `rows` of `pairwise_distances(x)`, (b, B), at the cost of these alone."""
    wide = x if x.dtype == torch.float64 else x.float()
    distances: Tensor = _OwnDistances.apply(wide, rows.start, rows.stop)
    return distances


class _Distances(torch.autograd.Function):
    """`pairwise_distances`, with its gradient as one product, not a chain of (B, B) steps.

    d a_ij / d x_i = (x_i - x_j) / a_ij, so with w_ij = g_ij / a_ij, symmetrised, the gradient
    is diag(w 1) x - w x. Centring the rows does not change it. The gradient has gradients itself,
    and `torch.func.grad` and `vmap` apply.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        with full_precision(x.device):
            centred = x - x.mean(0)
            gram = centred @ centred.T
        norms = gram.diagonal().clone()
        distances = _from_gram(gram, norms, norms)
        distances.diagonal().zero_()
        return distances

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x: Tensor
        distances: Tensor
        x, distances = ctx.saved_tensors
        zero = distances == 0
        weights = torch.where(zero, 0.0, gradient / torch.where(zero, 1.0, distances))
        weights = weights + weights.mT
        with full_precision(x.device):
            centred = x - x.mean(0)
            return weights.sum(1, keepdim=True) * centred - weights @ centred


class _OwnDistances(torch.autograd.Function):
    """Some rows of the distances; each moves both of the rows between which it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: int, last: int) -> Tensor:
        with full_precision(x.device):
            centred = x - x.mean(0)
            gram = centred[first:last] @ centred.T
        norms = centred.square().sum(1)
        distances = _from_gram(gram, norms[first:last], norms)
        distances.diagonal(first).zero_()
        ctx.save_for_backward(centred, distances)
        ctx.own = slice(first, last)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        centred: Tensor
        distances: Tensor
        centred, distances = ctx.saved_tensors
        own = centred[ctx.own]
        weights = torch.where(distances == 0, 0.0, gradient / distances)
        with full_precision(centred.device):
            moved = weights.sum(0)[:, None] * centred - weights.T @ own
            moved[ctx.own] += weights.sum(1, keepdim=True) * own - weights @ centred
        return moved, None, None


def _from_gram(gram: Tensor, norms: Tensor, others: Tensor) -> Tensor:
    """Return distances (b, B) from products of rows, which are overwritten, and squared norms."""
    squared_norms = norms[:, None] + others
    squared = gram.mul_(-2).add_(squared_norms)
    noise = squared_norms.mul_(ROUNDINGS * torch.finfo(gram.dtype).eps)
    return torch.where(squared <= noise, 0.0, squared).sqrt_()
