"""Affinities to a bank, against loops in NumPy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.objective.affinities import (
    NOWHERE,
    affinity_divergence,
    best_constant_divergence,
    rows_in_bank,
)

T: dict[str, Any] = {"temperature": 0.3, "target_temperature": 0.2}


def normal(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random, dtype=torch.float64)


def naive_affinities(row: Tensor, bank: Tensor, temperature: float, own: int) -> list[float]:
    weights = []
    for place, other in enumerate(bank):
        cosine = float(row @ other) / math.sqrt(float(row @ row) * float(other @ other))
        weights.append(0.0 if place == own else math.exp(cosine / temperature))
    return [weight / sum(weights) for weight in weights]


def naive_divergence(predicted: Tensor, targets: Tensor, bank: Tensor, own: list[int]) -> float:
    divergences = []
    for x, y, place in zip(predicted, targets, own, strict=True):
        p = naive_affinities(x, bank, T["temperature"], place)
        q = naive_affinities(y, bank, T["target_temperature"], place)
        divergences.append(sum(b * math.log(b / a) for a, b in zip(p, q, strict=True) if b > 0))
    return float(np.mean(divergences))


@pytest.mark.parametrize("own", [None, [3, NOWHERE, 0, 9, NOWHERE]])
def test_divergence_equals_the_naive_one(own: list[int] | None) -> None:
    predicted, targets, bank = normal(5, 4), normal(5, 4, seed=1), normal(10, 4, seed=2)
    found = affinity_divergence(
        [predicted], targets, bank, own=None if own is None else torch.tensor(own), **T
    )
    expected = naive_divergence(predicted, targets, bank, own or [NOWHERE] * 5)
    assert float(found) == pytest.approx(expected, rel=1e-10)


def test_several_views_are_averaged() -> None:
    views, targets, bank = (
        [normal(5, 4, seed=s) for s in (3, 4)],
        normal(5, 4),
        normal(8, 4, seed=1),
    )
    alone = [affinity_divergence([view], targets, bank, **T) for view in views]
    both = affinity_divergence(views, targets, bank, **T)
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)
    with pytest.raises(ValueError, match="the same shape"):
        affinity_divergence([views[0], views[1][:3]], targets, bank, **T)


def test_gradients_are_those_of_finite_differences_and_stay_finite() -> None:
    x, targets, bank = normal(3, 4).requires_grad_(), normal(3, 4, seed=1), normal(6, 4, seed=2)
    own = torch.tensor([0, NOWHERE, 5])
    assert torch.autograd.gradcheck(
        lambda rows: affinity_divergence([rows], targets, bank, own=own, **T), x
    )
    zero = torch.zeros(3, 4).requires_grad_()
    cold: dict[str, Any] = {"temperature": 0.01, "target_temperature": 0.001}
    torch.autograd.backward(
        affinity_divergence([zero], targets.float(), bank.float(), own=own, **cold)
    )
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()


def test_a_target_predicted_up_to_its_length_loses_nothing() -> None:
    targets, bank = normal(5, 4), normal(8, 4, seed=1)
    same: dict[str, Any] = {"temperature": 0.2, "target_temperature": 0.2}
    assert float(affinity_divergence([3 * targets], targets, bank, **same)) < 1e-12
    assert float(affinity_divergence([-targets], targets, bank, **same)) > 0.1


def test_a_number_that_is_not_finite_is_not_hidden() -> None:
    targets, bank = normal(5, 4), normal(8, 4, seed=1)
    broken = targets.clone()
    broken[2, 1] = float("nan")
    assert torch.isnan(affinity_divergence([broken], targets, bank, **T))
    assert torch.isnan(affinity_divergence([targets], broken, bank, **T))


def test_rows_are_found_in_the_bank_by_their_index() -> None:
    bank_index = torch.tensor([0, 3, 4, 10])
    index = torch.tensor([4, 5, 0, 10, 99, 3])
    assert rows_in_bank(index, bank_index).tolist() == [2, NOWHERE, 0, 3, NOWHERE, 1]


def test_the_best_constant_is_the_mean_distribution_and_no_other_is_better() -> None:
    targets, bank = normal(40, 4), normal(12, 4, seed=1)
    found = float(best_constant_divergence(targets, bank, target_temperature=0.2))
    q = np.array([naive_affinities(row, bank, 0.2, NOWHERE) for row in targets])

    def divergence(p: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
        return float((q * np.log(q / p)).sum(1).mean())

    assert found == pytest.approx(divergence(q.mean(0)), rel=1e-10)
    random = np.random.default_rng(0)
    assert all(divergence(random.dirichlet(np.ones(12))) > found for _ in range(50))
    for seed in range(20):
        row = normal(1, 4, seed=seed).expand_as(targets)
        assert float(affinity_divergence([row], targets, bank, **T)) > found


def test_the_best_constant_without_the_own_row_divides_its_probability() -> None:
    bank = normal(9, 4)
    own = list(range(9))
    found = float(
        best_constant_divergence(bank, bank, target_temperature=0.2, own=torch.tensor(own))
    )
    q = np.array([naive_affinities(row, bank, 0.2, i) for i, row in enumerate(bank)])
    divergences = []
    for i in own:
        p = np.where(np.arange(9) == i, 0, q.mean(0))
        p /= p.sum()
        others = np.arange(9) != i
        divergences.append((q[i, others] * np.log(q[i, others] / p[others])).sum())
    assert found == pytest.approx(np.mean(divergences), rel=1e-10)
