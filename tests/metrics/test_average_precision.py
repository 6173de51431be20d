"""Average precision against scikit-learn, torchmetrics, and VOC's own definition."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import multilabel_average_precision

from pipeline.base.errors import DataError
from pipeline.metrics.average_precision import (
    average_precision,
    bootstrap_mean,
    chance_mean,
    mean_over_classes,
)


def ranking(
    count: int = 200, seed: int = 0, ties: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    present = (torch.rand(count, generator=source) < 0.2).long()
    scores = present + 1.5 * torch.randn(count, generator=source)
    return (scores.round() if ties else scores), present


def eleven_points(scores: torch.Tensor, present: torch.Tensor) -> float:
    """VOC 2007's definition, threshold by threshold."""
    points = []
    for threshold in sorted(set(scores.tolist())):
        taken = scores >= threshold
        hits = int(present[taken].sum())
        points.append((hits / int(present.sum()), hits / int(taken.sum())))
    levels = [level / 10 for level in range(11)]
    best = [max((p for r, p in points if r >= level - 1e-9), default=0.0) for level in levels]
    return float(np.mean(best))


@pytest.mark.parametrize("ties", [False, True])
def test_both_definitions(ties: bool) -> None:
    scores, present = ranking(ties=ties)
    found = average_precision(scores, present)
    assert found.area.item() == pytest.approx(average_precision_score(present, scores))
    assert found.eleven_point.item() == pytest.approx(eleven_points(scores, present))


def test_ignored_images_might_as_well_be_absent() -> None:
    scores, present = ranking()
    ignored = torch.arange(200) % 3 == 0
    partly = torch.where(ignored, -1, present)
    assert average_precision(scores, partly) == average_precision(
        scores[~ignored], present[~ignored]
    )


def test_weights_count_images_as_often_as_they_occur() -> None:
    scores, present = ranking()
    counts = torch.randint(0, 4, (3, 200), generator=torch.Generator().manual_seed(1))
    found = average_precision(scores, present, counts)
    for row in range(3):
        repeated = (t.repeat_interleave(counts[row]) for t in (scores, present))
        expected = average_precision(*repeated)
        assert found.area[row].item() == pytest.approx(expected.area.item())
        assert found.eleven_point[row].item() == pytest.approx(expected.eleven_point.item())


def test_the_mean_over_classes_is_torchmetrics_macro_average() -> None:
    columns = [ranking(seed=seed) for seed in range(5)]
    scores, present = (torch.stack([c[i] for c in columns], dim=1) for i in (0, 1))
    means, areas = mean_over_classes(scores, present)
    expected = multilabel_average_precision(scores.sigmoid(), present, 5, average="none")
    assert areas.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    interval = bootstrap_mean(scores, present, seed=0, resamples=200)
    assert interval.mean == pytest.approx(means.eleven_point.item())
    assert interval.low < interval.mean < interval.high
    assert interval.high - interval.low < 0.3


def test_perfect_and_worst_rankings() -> None:
    present = torch.tensor([1, 1, 0, 0])
    best = average_precision(torch.tensor([4.0, 3, 2, 1]), present)
    assert (best.area.item(), best.eleven_point.item()) == (1.0, 1.0)
    worst = average_precision(torch.tensor([1.0, 2, 3, 4]), present)
    assert worst.area.item() == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_a_class_without_a_positive_is_an_error() -> None:
    scores = torch.randn(5, 2)
    present = torch.tensor([[1, 0], [0, -1], [0, 0], [1, 0], [0, 0]])
    with pytest.raises(DataError, match=r"classes \[1\] have none"):
        mean_over_classes(scores, present)


def test_chance_is_what_rankings_by_lot_reach() -> None:
    rng = np.random.default_rng(0)
    present = (rng.random((200, 4)) < [0.05, 0.2, 0.5, 0.8]).astype(int)

    def drawn(labels: np.ndarray) -> float:
        found = labels[rng.permutation(len(labels))].cumsum()
        precision, recall = found / np.arange(1, len(labels) + 1), found / labels.sum()
        levels = np.linspace(0, 1, 11) - 1e-12
        return float(np.mean([precision[recall >= level].max() for level in levels]))

    expected = np.mean([drawn(labels) for labels in present.T for _ in range(50)])
    assert chance_mean(torch.tensor(present), seed=0) == pytest.approx(expected, abs=0.02)
