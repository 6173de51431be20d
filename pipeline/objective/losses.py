"""The losses of the objective other than dependence: pure functions of a batch's rows.

Variance, covariance and invariance are those of VICReg (Bardes, Ponce and LeCun, arXiv
2105.04906), each for one view or pair of views; `objective.py` sums over the views.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.base.arguments import require_matrix
from pipeline.base.errors import ArgumentError, TrainingError

# Added to a variance before its root, as in VICReg: gradients stay finite on a collapsed batch.
VARIANCE_EPSILON = 1e-4


def mean_squared_error(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean of (x - y)^2 over rows and dimensions of two (B, D)."""
    require_equal_shapes(x, y)
    return F.mse_loss(wide(x), wide(y))


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean over rows of 1 - cos(x_i, y_i), in [0, 2]; it is 1 for a zero row."""
    require_equal_shapes(x, y)
    return 1 - F.cosine_similarity(wide(x), wide(y), dim=1).mean()


def variance_hinge(x: Tensor, *, margin: float = 1.0) -> Tensor:
    """Return the mean over dimensions of relu(margin - std), std over the rows of (B, D).

    std is the root of the unbiased variance plus `VARIANCE_EPSILON`.
    """
    require_rows(x)
    x = wide(x)
    return F.relu(margin - (x.var(0) + VARIANCE_EPSILON).sqrt()).mean()


def covariance_penalty(x: Tensor) -> Tensor:
    """Return the sum of squared off-diagonal covariances of (B, D), divided by D.

    If D > B, the squares of the D x D covariance matrix are summed through the B x B Gram
    matrix, which has the same Frobenius norm.
    """
    require_rows(x)
    x = wide(x)
    B, D = x.shape
    centred = x - x.mean(0)
    product = centred.T @ centred if D <= B else centred @ centred.T
    everything = (product / (B - 1)).square().sum()
    diagonal = (centred.square().sum(0) / (B - 1)).square().sum()
    return (everything - diagonal) / D


def label_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (B, K) and labels (B,) over the labelled rows.

    Labels below 0 stand for none. Without any, it is 0, with gradients of 0. Raises ArgumentError
    if there is not one label for each row.
    """
    require_matrix(logits, "The logits")
    if labels.shape != logits.shape[:1]:
        raise ArgumentError(
            f"Cross-entropy needs one label for each of {len(logits)} rows; found labels of shape "
            f"{tuple(labels.shape)}."
        )
    known = labels >= 0
    losses = F.cross_entropy(wide(logits), labels.clamp(min=0), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def label_entropy(counts: Tensor) -> Tensor:
    """Return the entropy (nats) of classes that have these numbers of images (K,).

    It is the cross-entropy of the best constant answer.
    """
    shares = wide(counts) / counts.sum()
    entropies: Tensor = torch.special.entr(shares)
    return entropies.sum()


def standardised(x: Tensor) -> Tensor:
    """Return rows (B, D), every dimension centred and divided by its std as in `variance_hinge`.

    A constant dimension stays constant.
    """
    require_rows(x)
    x = wide(x)
    return (x - x.mean(0)) / (x.var(0) + VARIANCE_EPSILON).sqrt()


def require_equal_shapes(x: Tensor, y: Tensor) -> None:
    """Raise ArgumentError unless two matrices have one shape, TrainingError if they are empty."""
    # Broadcasting would turn a mistake into a number.
    for batch in (x, y):
        require_matrix(batch, "A batch")
    if x.shape != y.shape:
        raise ArgumentError(
            f"Expected the same shape; found {tuple(x.shape)} and {tuple(y.shape)}."
        )
    if not len(x):
        raise TrainingError("A loss needs a batch of at least 1 row; found none.")


def require_rows(x: Tensor) -> None:
    """Raise TrainingError if a batch has fewer than the two rows that a statistic needs.

    Raises ArgumentError if it is no matrix of real numbers.
    """
    require_matrix(x, "A batch")
    if len(x) < 2:
        raise TrainingError(
            f"Variance and covariance need batches of at least 2 rows; found {len(x)}."
        )


def wide(x: Tensor) -> Tensor:
    """Return float64 rows unchanged and others in float32: squares overflow in 16 bits."""
    return x if x.dtype == torch.float64 else x.float()
