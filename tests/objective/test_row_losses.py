"""Losses row by row, dropping of matched targets, and the best constant, against plain NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from pipeline.base.errors import TrainingError
from pipeline.objective.row_losses import ROW_LOSSES, best_constant_loss, kept_rows


def normal(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random, dtype=torch.float64)


def naive(name: str, x: "np.ndarray[Any, Any]", y: "np.ndarray[Any, Any]") -> float:
    """Return the loss of one row."""
    cosine = 1 - sum(a * b for a, b in zip(x, y, strict=True)) / np.sqrt(
        sum(a * a for a in x) * sum(b * b for b in y)
    )
    differences = [abs(a - b) for a, b in zip(x, y, strict=True)]
    smooth = np.mean([d * d / 2 if d < 1 else d - 0.5 for d in differences])
    squared = np.mean([d * d for d in differences])
    return float({"cosine": cosine, "squared": squared}.get(name, (cosine + smooth) / 2))


@pytest.mark.parametrize("name", ROW_LOSSES)
def test_each_row_equals_the_naive_loss(name: str) -> None:
    x, y = 2 * normal(9, 5), normal(9, 5, seed=1)
    found = ROW_LOSSES[name](x, y)
    expected = [naive(name, a, b) for a, b in zip(x.numpy(), y.numpy(), strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ROW_LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    x, y = normal(4, 3).requires_grad_(), normal(4, 3, seed=1)
    assert torch.autograd.gradcheck(lambda rows: ROW_LOSSES[name](rows, y), x)


@pytest.mark.parametrize("name", ROW_LOSSES)
def test_equals_lose_nothing_and_zero_rows_have_finite_gradients(name: str) -> None:
    y = normal(6, 4)
    assert ROW_LOSSES[name](y, y).abs().max() < 1e-12
    x = torch.zeros(6, 4).requires_grad_()
    torch.autograd.backward(ROW_LOSSES[name](x, y.float()).sum())
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", ROW_LOSSES)
def test_other_shapes_and_empty_batches_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="the same shape"):
        ROW_LOSSES[name](normal(4, 3), normal(1, 3))
    with pytest.raises(TrainingError, match="at least 1 row"):
        ROW_LOSSES[name](torch.zeros(0, 3), torch.zeros(0, 3))


@pytest.mark.parametrize("name", ROW_LOSSES)
def test_half_precision_is_the_loss_of_the_same_numbers_in_float32(name: str) -> None:
    x, y = (300 * normal(8, 4)).half(), normal(8, 4, seed=1).half()
    found = ROW_LOSSES[name](x, y)
    assert found.dtype == torch.float32
    assert torch.equal(found, ROW_LOSSES[name](x.float(), y.float()))


# The best constant


@pytest.mark.parametrize("name", ROW_LOSSES)
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_the_best_constant_is_that_of_a_general_optimiser(name: str, shift: float) -> None:
    targets = normal(60, 4) * torch.tensor([3.0, 1.0, 0.5, 0.1]) + shift
    rows = targets.numpy()

    def loss(constant: "np.ndarray[Any, Any]") -> float:
        return float(np.mean([naive(name, constant, row) for row in rows]))

    starts = [rows.mean(0), rows[0], rows[1]]
    best = min(minimize(loss, s, method="BFGS", options={"gtol": 1e-8}).fun for s in starts)
    assert float(best_constant_loss(name, targets)) == pytest.approx(best, abs=1e-5)


def test_no_single_row_predicts_better_than_the_best_constant() -> None:
    targets = normal(50, 6) + 1
    for name, loss in ROW_LOSSES.items():
        best = float(best_constant_loss(name, targets))
        for seed in range(20):
            constant = targets.mean(0) + normal(6, seed=seed)
            assert float(loss(constant.expand_as(targets), targets).mean()) >= best - 1e-9


def test_equal_targets_leave_the_best_constant_nothing_to_lose() -> None:
    targets = normal(1, 5).expand(7, 5)
    assert all(float(best_constant_loss(name, targets)) < 1e-9 for name in ROW_LOSSES)


# Dropping


def test_only_rows_of_better_matched_targets_are_left_out_with_their_probability() -> None:
    losses = torch.tensor([[3.0, 1.0, 2.0, 5.0], [1.0, 4.0, 2.0, 0.0]])
    draws = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.1, 0.1, 0.1, 0.9]])
    kept = kept_rows(losses, draws, [0.5, 0.5])
    expected = [[True, False, True, True], [False, True, True, True]]
    assert kept.tolist() == expected
    assert kept_rows(losses, draws, [0.0, 0.0]).all()


def test_the_hardest_target_of_a_row_always_counts_and_others_as_often_as_they_should() -> None:
    random = torch.Generator().manual_seed(0)
    losses = torch.rand(3, 4000, generator=random)
    kept = kept_rows(losses, torch.rand(3, 4000, generator=random), [0.5, 0.5, 0.2])
    hardest = losses.argmax(0)
    assert kept[hardest, torch.arange(4000)].all()
    for target, chance in enumerate((0.5, 0.5, 0.2)):
        others = kept[target][hardest != target].float()
        assert others.mean().item() == pytest.approx(1 - chance, abs=0.04)
