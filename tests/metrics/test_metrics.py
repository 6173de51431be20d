"""Metrics against scikit-learn, closed forms and known spectra."""

import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    recall_score,
    top_k_accuracy_score,
)
from torchmetrics.functional.classification import multiclass_accuracy

from pipeline.base.errors import DataError
from pipeline.metrics.accuracy import (
    bootstrap_interval,
    class_averages,
    per_class_accuracy,
    top_k_accuracy,
)
from pipeline.metrics.effective_rank import effective_rank


@contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Allow this process so many more bytes of memory than it has."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy_agrees_with_scikit_learn(k: int) -> None:
    scores = torch.randn(200, 7, generator=generator())
    targets = torch.randint(7, (200,), generator=generator(1))
    expected = top_k_accuracy_score(targets.numpy(), scores.numpy(), k=k, labels=range(7))
    assert top_k_accuracy(scores, targets, k=k) == pytest.approx(expected)


def test_top_k_of_all_classes_is_certain_and_of_no_images_an_error() -> None:
    assert top_k_accuracy(torch.randn(5, 3), torch.zeros(5, dtype=torch.long), k=5) == 1
    with pytest.raises(DataError, match="at least one image"):
        top_k_accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


def test_class_accuracies_agree_with_scikit_learn() -> None:
    predictions = torch.randint(6, (300,), generator=generator())
    targets = torch.randint(5, (300,), generator=generator(1))  # class 5 has no image
    accuracies = per_class_accuracy(predictions, targets, classes=6)
    recalls = recall_score(targets, predictions, labels=range(5), average=None)
    np.testing.assert_allclose(accuracies[:5], recalls)
    assert math.isnan(accuracies[5])


def test_accuracies_and_confusion_agree_with_torchmetrics() -> None:
    scores = torch.randn(300, 12, generator=generator())
    targets = torch.randint(12, (300,), generator=generator(1))
    for k in (1, 5):
        expected = multiclass_accuracy(scores, targets, 12, average="micro", top_k=k)
        assert top_k_accuracy(scores, targets, k=k) == pytest.approx(expected.item())
    by_class = multiclass_accuracy(scores, targets, 12, average="none")
    found = per_class_accuracy(scores.argmax(dim=1), targets, classes=12)
    torch.testing.assert_close(found.float(), by_class)


def test_a_class_out_of_range_is_a_data_error() -> None:
    with pytest.raises(DataError, match="predictions from 0 to 2"):
        per_class_accuracy(torch.tensor([3]), torch.tensor([0]), classes=3)
    with pytest.raises(DataError, match="targets from 0 to 2"):
        per_class_accuracy(torch.tensor([0]), torch.tensor([-1]), classes=3)


def unequal(seed: int, images: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and targets of classes 3, 4, 40 and 41, of which 41 is only predicted."""
    shares = torch.tensor([0.8, 0.15, 0.05])
    drawn = shares.multinomial(images, replacement=True, generator=generator(seed))
    targets = torch.tensor([3, 4, 40])[drawn]
    wrong = torch.rand(images, generator=generator(seed + 1)) < 0.1 + 0.2 * drawn
    guesses = torch.tensor([3, 4, 40, 41])[torch.randint(4, (images,), generator=generator(seed))]
    return torch.where(wrong, guesses, targets), targets


def test_averages_over_classes_agree_with_scikit_learn() -> None:
    predictions, targets = unequal(0)
    balanced, f1 = class_averages(predictions, targets, seed=0)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert balanced.mean == pytest.approx(balanced_accuracy_score(targets, predictions))
    assert f1.mean == pytest.approx(f1_score(targets, predictions, average="macro"))
    assert class_averages(predictions, targets, seed=0) == (balanced, f1)
    assert class_averages(predictions, targets, seed=1) != (balanced, f1)
    order = torch.randperm(400, generator=generator())
    shuffled = class_averages(predictions[order], targets[order], seed=0)
    assert [interval.mean for interval in shuffled] == pytest.approx([balanced.mean, f1.mean])


def test_a_class_that_a_draw_neither_has_nor_predicts_does_not_count_in_it() -> None:
    targets = torch.tensor([0] * 5 + [1] * 5)
    predictions = torch.tensor([2, 0, 0, 0, 0] + [1] * 5)  # there are no images of class 2
    _, f1 = class_averages(predictions, targets, seed=0, resamples=4000)
    assert f1.mean == pytest.approx((8 / 9 + 1 + 0) / 3)
    # A third of the draws leave the wrong one out, and 1 in 17 has it three times or more.
    assert f1.high == 1
    assert f1.low == pytest.approx((4 / 7 + 1 + 0) / 3)


def test_the_interval_of_balanced_accuracy_is_that_of_independent_classes() -> None:
    targets = torch.cat([torch.zeros(3000), torch.ones(300)]).long()
    predictions = torch.cat([(torch.arange(3000) < 600), (torch.arange(300) < 150)]).long()
    (found, _) = class_averages(predictions, targets, seed=0, resamples=4000)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 3000 + 0.5 * 0.5 / 300) / 2
    assert found.mean == pytest.approx(0.65)
    assert found.low == pytest.approx(0.65 - half, abs=0.06 * half)
    assert found.high == pytest.approx(0.65 + half, abs=0.06 * half)


def test_the_intervals_of_averages_cover_the_truth_about_as_often_as_promised() -> None:
    truth = class_averages(*unequal(10_000, images=400_000), seed=0, resamples=1)
    covered = [0, 0]
    for trial in range(100):
        found = class_averages(*unequal(trial), seed=trial, resamples=200, level=0.9)
        for which, interval in enumerate(found):
            covered[which] += interval.low <= truth[which].mean <= interval.high
    assert all(80 <= count <= 97 for count in covered)


def test_a_hundred_thousand_classes_fit_into_memory() -> None:
    targets = torch.arange(100_000)
    predictions = targets.clone()
    predictions[::2] = 0
    with limited_memory(3 << 30):
        accuracies = per_class_accuracy(predictions, targets, classes=100_000)
        balanced, _ = class_averages(predictions, targets, seed=0, resamples=10)
    assert accuracies.mean().item() == pytest.approx(0.50001)
    assert balanced.mean == pytest.approx(0.50001)


def test_averages_of_no_images_are_an_error() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    with pytest.raises(DataError, match="at least one image"):
        class_averages(nothing, nothing, seed=0)


def test_the_interval_of_an_accuracy_is_the_binomial_one() -> None:
    hits = (torch.arange(4000) < 3000).double()
    found = bootstrap_interval(hits, seed=0, resamples=2000)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 4000)
    assert found.mean == 0.75
    assert found.low == pytest.approx(0.75 - half, abs=0.1 * half)
    assert found.high == pytest.approx(0.75 + half, abs=0.1 * half)


def test_the_interval_covers_the_true_mean_about_as_often_as_promised() -> None:
    covered = 0
    for trial in range(200):
        values = torch.randn(60, generator=generator(trial))
        interval = bootstrap_interval(values, seed=trial, resamples=400, level=0.9)
        covered += interval.low <= 0 <= interval.high
    assert 0.82 <= covered / 200 <= 0.96


def test_the_interval_depends_on_the_seed_alone() -> None:
    values = torch.randn(100, generator=generator())
    torch.manual_seed(0)
    first = bootstrap_interval(values, seed=3)
    torch.manual_seed(1)
    assert bootstrap_interval(values, seed=3) == first
    assert bootstrap_interval(values, seed=4) != first


def test_large_samples_are_resampled_in_blocks() -> None:
    values = torch.randn(1_500_000, generator=generator())
    interval = bootstrap_interval(values, seed=0, resamples=40)
    width = 2 * 1.96 / math.sqrt(len(values))
    assert interval.high - interval.low == pytest.approx(width, rel=0.5)
    assert interval.low < interval.mean < interval.high


def test_intervals_of_constants_and_of_nothing() -> None:
    same = bootstrap_interval(torch.ones(10), seed=0)
    assert (same.low, same.mean, same.high) == (1, 1, 1)
    with pytest.raises(DataError, match="at least one value"):
        bootstrap_interval(torch.zeros(0), seed=0)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 30), width=st.integers(1, 30), seed=st.integers(0, 1000))
def test_effective_rank_is_the_entropy_of_singular_values(rows: int, width: int, seed: int) -> None:
    x = torch.randn(rows, width, generator=generator(seed)).double()
    p = np.linalg.svd(x.numpy(), compute_uv=False)
    p = p / p.sum()
    expected = np.exp(-(p * np.log(p)).sum())
    assert effective_rank(x) == pytest.approx(expected, rel=1e-5)
    assert 1 - 1e-9 <= effective_rank(x) <= min(rows, width) + 1e-9


def test_effective_rank_of_known_spectra() -> None:
    assert effective_rank(torch.eye(16)) == pytest.approx(16)
    assert effective_rank(torch.ones(50, 8)) == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.zeros(50, 8)) == 0
    x = torch.randn(500, 12, generator=generator())
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=generator(1)))[0]
    assert effective_rank(x @ rotation * 7) == pytest.approx(effective_rank(x), rel=1e-5)
    flat = x.clone()
    flat[:, 6:] *= 1e-3
    assert effective_rank(flat) < 6.1
