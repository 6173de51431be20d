"""Accuracy, overall and by class, confusion matrices and bootstrap intervals."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.base.errors import DataError

_DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def top_k_accuracy(scores: Tensor, targets: Tensor, *, k: int = 1) -> float:
    """Return the share of rows of `scores` (N, K) with the target (N,) among the k largest.

    In [0, 1]; it is 1 if k >= K. Raises DataError if there are no rows.
    """
    if not len(targets):
        raise DataError("Accuracy needs at least one image; found none.")
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (best == targets[:, None]).any(dim=1).double().mean().item()


def confusion_matrix(predictions: Tensor, targets: Tensor, *, classes: int) -> Tensor:
    """Return counts (classes, classes): rows are true classes, columns predicted ones."""
    for what, indices in (("predictions", predictions), ("targets", targets)):
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < classes:
            raise DataError(f"Expected {what} from 0 to {classes - 1}; found others.")
    cells = targets.long() * classes + predictions.long()
    return cells.bincount(minlength=classes * classes).reshape(classes, classes)


def per_class_accuracy(predictions: Tensor, targets: Tensor, *, classes: int) -> Tensor:
    """Return the accuracy on the images of each class (classes,), NaN for a class without any."""
    counts = confusion_matrix(predictions, targets, classes=classes).double()
    return counts.diagonal() / counts.sum(dim=1)


def bootstrap_interval(
    values: Tensor, *, seed: int, level: float = 0.95, resamples: int = 1000
) -> Interval:
    """Return the mean of `values` (N,) with its percentile bootstrap interval.

    For an accuracy, the value of each image is 0 or 1. Raises DataError if there are none.
    """
    if not len(values):
        raise DataError("An interval needs at least one value; found none.")
    values = values.double().cpu()
    source = torch.Generator().manual_seed(seed)
    means = torch.empty(resamples, dtype=torch.float64)
    at_once = max(1, _DRAWS_AT_ONCE // len(values))
    for part in torch.split(means, at_once):
        draws = torch.randint(len(values), (len(part), len(values)), generator=source)
        part.copy_(values[draws].mean(dim=1))
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(values.mean().item(), low, high)
