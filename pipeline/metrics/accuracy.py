"""Accuracy, overall and by class, and bootstrap intervals.

Where classes are of unequal size, accuracy tells most about the large ones. Balanced accuracy is
the mean of the classes' accuracies; macro F1 is the mean of their F1, which also counts images of
other classes that are taken for one. Both are as in scikit-learn.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.base.arguments import require_classes, require_matrix
from pipeline.base.errors import ArgumentError, DataError

_DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def top_k_accuracy(scores: Tensor, targets: Tensor, *, k: int = 1) -> float:
    """Return the share of rows of `scores` (N, K) with the target (N,) among the k largest.

    In [0, 1]; it is 1 if k >= K. Raises DataError if there are no rows, if a score is NaN, or if a
    target is no class.
    """
    if not len(targets):
        raise DataError("Accuracy needs at least one image; found none.")
    require_matrix(scores, "Scores")
    require_classes(targets, "targets", rows=len(scores), classes=scores.shape[1])
    if k < 1 or scores.isnan().any():
        raise DataError(f"Accuracy needs a k of at least 1, and scores that are not NaN; k is {k}.")
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (best == targets[:, None]).any(dim=1).double().mean().item()


def require_level(level: float, resamples: int) -> None:
    """Raise ArgumentError unless an interval can be of this level, from so many resamples."""
    if not 0 < level < 1 or resamples < 1:
        raise ArgumentError(
            f"An interval has a level between 0 and 1, from at least 1 resample; found {level} "
            f"and {resamples}."
        )


def per_class_accuracy(predictions: Tensor, targets: Tensor, *, classes: int) -> Tensor:
    """Return the accuracy on the images of each class (classes,), NaN for a class without any.

    Raises DataError unless both are (N,) classes.
    """
    for what, indices in (("predictions", predictions), ("targets", targets)):
        require_classes(indices, what, rows=len(targets), classes=classes)
    hits = targets[predictions == targets].bincount(minlength=classes)
    return hits.double() / targets.bincount(minlength=classes)


def class_averages(
    predictions: Tensor,
    targets: Tensor,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 1000,
) -> tuple[Interval, Interval]:
    """Return balanced accuracy and macro F1 of predictions (N,) for targets (N,), in [0, 1].

    A class without images counts for macro F1 if it is predicted, with an F1 of 0. The intervals
    are percentile bootstraps, which draw as many images of each class as there are. Raises
    DataError if there are no images.
    """
    if not len(targets):
        raise DataError("Accuracy needs at least one image; found none.")
    named, indices = torch.unique(torch.cat([targets, predictions]).cpu(), return_inverse=True)
    actual, guesses = indices.split(len(targets))
    actual, order = actual.sort()
    guesses, sizes = guesses[order], actual.bincount(minlength=len(named))
    first, size = (sizes.cumsum(0) - sizes)[actual], sizes[actual]
    balanced, f1 = _averages(guesses[None], actual, sizes)
    source = torch.Generator().manual_seed(seed)
    drawn = []
    for part in torch.split(torch.empty(resamples), max(1, _DRAWS_AT_ONCE // len(indices))):
        chosen = torch.rand(len(part), len(actual), generator=source, dtype=torch.float64)
        drawn.append(_averages(guesses[first + (chosen * size).long()], actual, sizes))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    bounds = (torch.cat(each).quantile(tails).tolist() for each in zip(*drawn, strict=True))
    means = (balanced.item(), f1.item())
    found = [Interval(mean, *b) for mean, b in zip(means, bounds, strict=True)]
    return found[0], found[1]


def _averages(guesses: Tensor, actual: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Return balanced accuracy and macro F1 (R,) of guesses (R, N) for classes of `sizes` (K,)."""
    R, K = len(guesses), len(sizes)
    cells = guesses + K * torch.arange(R)[:, None]
    guessed = cells.flatten().bincount(minlength=R * K).view(R, K)
    right = cells[guesses == actual].bincount(minlength=R * K).view(R, K).double()
    there = sizes > 0
    balanced = (right[:, there] / sizes[there]).mean(dim=1)
    # NaN where a draw has neither images nor guesses of a class, which then does not count.
    return balanced, (2 * right / (guessed + sizes)).nanmean(dim=1)


def bootstrap_interval(
    values: Tensor, *, seed: int, level: float = 0.95, resamples: int = 1000
) -> Interval:
    """Return the mean of `values` (N,) with its percentile bootstrap interval.

    For an accuracy, the value of each image is 0 or 1. Raises DataError if there are none, or if
    one is not finite.
    """
    if values.ndim != 1 or not len(values) or not torch.isfinite(values).all():
        raise DataError(
            "An interval needs at least one value (N,), and finite ones; found a shape of "
            f"{tuple(values.shape)}."
        )
    require_level(level, resamples)
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
