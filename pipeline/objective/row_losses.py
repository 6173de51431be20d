"""Losses of an embedding against a target, row by row: pure functions of two (B, D).

The term of a batch is their mean over rows. Those of several targets can be compared row by row.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.base.errors import ArgumentError, unknown_name
from pipeline.objective.losses import require_equal_shapes, wide

RowLoss = Callable[[Tensor, Tensor], Tensor]


def cosine_rows(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 - cos(x_i, y_i) for each row, (B,), in [0, 2]; it is 1 for a zero row."""
    require_equal_shapes(x, y)
    return 1 - F.cosine_similarity(wide(x), wide(y), dim=1)


def squared_rows(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean over dimensions of (x - y)^2 for each row, (B,)."""
    require_equal_shapes(x, y)
    return (wide(x) - wide(y)).square().mean(1)


def cosine_smooth_l1_rows(x: Tensor, y: Tensor) -> Tensor:
    """Return half of `cosine_rows` plus half of the smooth L1 distance for each row, (B,).

    The smooth L1 distance is the mean over dimensions of d^2 / 2 where d = |x - y| < 1, and of
    d - 1/2 elsewhere. It is the loss of UNIC (Sariyildiz et al., arXiv 2408.05088), which applies
    it to standardised targets.
    """
    cosine = cosine_rows(x, y)
    return (cosine + F.smooth_l1_loss(wide(x), wide(y), reduction="none").mean(1)) / 2


ROW_LOSSES: Mapping[str, RowLoss] = {
    "cosine": cosine_rows,
    "squared": squared_rows,
    "cosine_smooth_l1": cosine_smooth_l1_rows,
}


def kept_rows(losses: Tensor, draws: Tensor, chances: Sequence[float]) -> Tensor:
    """Return which rows of T targets count, (T, B), for their losses (T, B).

    The target with the largest loss of a row always counts. Each other one is left out with its
    probability in `chances`; `draws` (T, B) are uniform in [0, 1). This is the dropping of
    teachers in UNIC.
    """
    largest = losses >= losses.amax(0)
    left = [row >= chance for row, chance in zip(draws, chances, strict=True)]
    return largest | torch.stack(left)


def best_constant_loss(name: str, targets: Tensor) -> Tensor:
    """Return the mean loss over targets (N, D) of the one row (D,) that predicts them best.

    For the cosine it is the direction of the mean of unit rows, for the squared error the mean. The
    best row for `cosine_smooth_l1` is found by L-BFGS from the mean of the targets.
    """
    if name not in ROW_LOSSES:
        raise ArgumentError(unknown_name("loss", name, ROW_LOSSES))
    require_equal_shapes(targets, targets)
    targets = wide(targets)
    match name:
        case "cosine":
            resultant: Tensor = F.normalize(targets, dim=1).mean(0).norm()
            return 1 - resultant
        case "squared":
            return targets.var(0, correction=0).mean()
    constant = targets.mean(0).requires_grad_()
    # A target's direction counts as much as its distance, so there is no closed form.
    search = torch.optim.LBFGS(
        [constant], max_iter=100, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def value() -> Tensor:
        search.zero_grad()
        loss = ROW_LOSSES[name](constant.expand_as(targets), targets).mean()
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        search.step(value)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return ROW_LOSSES[name](constant.expand_as(targets), targets).mean()
