"""Average precision of the ranking for a class, by two definitions, with weighted images.

- area: the sum over distinct scores of (recall - previous recall) * precision, as in
  scikit-learn's `average_precision_score`;
- 11-point: the mean over recalls 0, 0.1, ..., 1 of the largest precision at that recall or above,
  as in PASCAL VOC 2007 (Everingham et al., IJCV 2010, section 4.2).

Weights are counts: a bootstrap resample is the same ranking with other counts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.base.arguments import require_shape
from pipeline.base.errors import DataError
from pipeline.metrics.accuracy import Interval, require_level

_RECALLS = 11
_RANKINGS = 20
_NUMBERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class AveragePrecision:
    """In [0, 1], by both definitions; the shape (...) is the weights' leading dimensions."""

    area: Tensor
    eleven_point: Tensor


def average_precision(
    scores: Tensor, present: Tensor, weights: Tensor | None = None
) -> AveragePrecision:
    """Return the average precision of `scores` (N,) for `present` (N,): 1, 0, or < 0 to ignore.

    `weights` (..., N) count each image. The result is NaN if every positive image has weight 0.
    Images with equal scores count as one step of the ranking. Raises DataError if no image counts,
    if a score is NaN, or if a label is above 1.
    """
    require_shape(present, "labels", scores.shape[:1])
    require_shape(scores, "scores", present.shape)
    if not (present >= 0).any() or present.max() > 1 or scores.isnan().any():
        raise DataError(
            "Average precision needs an image that counts, labels of 1, 0 or below, and scores "
            "that are not NaN."
        )
    kept = present >= 0
    scores, present = scores[kept], present[kept].double()
    order = scores.argsort(descending=True)
    scores, present = scores[order], present[order]
    if weights is None:
        weights = torch.ones(len(scores), dtype=torch.float64)
    else:
        weights = weights[..., kept][..., order].double()
    hits, seen = (weights * present).cumsum(dim=-1), weights.cumsum(dim=-1)
    last = torch.ones(len(scores), dtype=torch.bool)  # in its run of equal scores
    last[:-1] = scores[1:] != scores[:-1]
    hits, seen = hits[..., last], seen[..., last]
    recall = hits / hits[..., -1:]
    precision = hits / seen.clamp_min(1e-12)
    steps = recall.diff(dim=-1, prepend=torch.zeros_like(recall[..., :1]))
    return AveragePrecision((steps * precision).sum(dim=-1), _eleven_point(recall, precision))


def _eleven_point(recall: Tensor, precision: Tensor) -> Tensor:
    best = precision.flip(-1).cummax(dim=-1).values.flip(-1)  # at this recall or above
    levels = torch.linspace(0, 1, _RECALLS, dtype=torch.float64) - 1e-12
    places = torch.searchsorted(
        recall.nan_to_num(0).contiguous(), levels.expand(*recall.shape[:-1], -1).contiguous()
    )
    reached = best.gather(-1, places.clamp_max(recall.shape[-1] - 1))
    mean = torch.where(places < recall.shape[-1], reached, 0.0).mean(dim=-1)
    return torch.where(recall[..., -1].isnan(), torch.nan, mean)


def mean_over_classes(scores: Tensor, present: Tensor) -> tuple[AveragePrecision, Tensor]:
    """Return the means over classes, for scores and labels (N, K), and each class's area (K,).

    Raises DataError if a class has no positive image.
    """
    require_shape(scores, "scores", present.shape)
    found = [average_precision(s, p) for s, p in zip(scores.T, present.T, strict=True)]
    areas = torch.stack([value.area for value in found])
    empty = areas.isnan().nonzero().flatten().tolist()
    if empty:
        raise DataError(
            f"Average precision needs an image of every class; classes {empty[:5]} have none "
            "among the scored images."
        )
    eleven = torch.stack([value.eleven_point for value in found])
    return AveragePrecision(areas.mean(), eleven.mean()), areas


def chance_mean(present: Tensor, *, seed: int) -> float:
    """Return the mean over classes of the 11-point definition for random rankings."""
    source = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(present.shape, generator=source) for _ in range(_RANKINGS)]
    found = [mean_over_classes(scores, present)[0].eleven_point for scores in drawn]
    return torch.stack(found).mean().item()


def bootstrap_mean(
    scores: Tensor, present: Tensor, *, seed: int, level: float = 0.95, resamples: int = 1000
) -> Interval:
    """Return the mean over classes of the 11-point definition, with its bootstrap interval.

    Images are resampled; a class without a positive image in a resample is left out of its mean.
    """
    require_level(level, resamples)
    mean = mean_over_classes(scores, present)[0].eleven_point.item()
    source = torch.Generator().manual_seed(seed)
    count = len(scores)
    at_once = max(1, _NUMBERS_AT_ONCE // count)
    means = []
    for first in range(0, resamples, at_once):
        rows = min(at_once, resamples - first)
        draws = torch.randint(count, (rows, count), generator=source)
        weights = torch.zeros(rows, count).scatter_add_(1, draws, torch.ones(rows, count))
        values = [
            average_precision(s, p, weights).eleven_point
            for s, p in zip(scores.T, present.T, strict=True)
        ]
        means.append(torch.stack(values).nanmean(dim=0))
    tail = (1 - level) / 2
    bounds = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = torch.cat(means).quantile(bounds).tolist()
    return Interval(mean, low, high)
