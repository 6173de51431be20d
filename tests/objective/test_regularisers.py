"""Barlow Twins and SIGReg, against plain versions of the published code."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, nn

from pipeline.base.errors import TrainingError
from pipeline.objective.regularisers import (
    barlow,
    constant_gaussian_distance,
    gaussian_distance,
    random_directions,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random, dtype=torch.float64)


def directions(count: int, width: int, seed: int = 0) -> Tensor:
    return random_directions(count, width, torch.Generator().manual_seed(seed), normal(1))


def published_barlow(x: Tensor, y: Tensor, off_diagonal: float) -> Tensor:
    norm = nn.BatchNorm1d(x.shape[1], affine=False, dtype=torch.float64)
    matrix = norm(x).T @ norm(y) / len(x)
    on = (matrix.diagonal() - 1).square().sum()
    off = (matrix - torch.diag(matrix.diagonal())).square().sum()
    total: Tensor = on + off_diagonal * off
    return total


@pytest.mark.parametrize("shape", [(30, 6), (6, 30), (16, 16)])
@pytest.mark.parametrize("off_diagonal", [0.0051, 1.0])
def test_barlow_equals_the_published_code_with_its_gradient(
    shape: tuple[int, int], off_diagonal: float
) -> None:
    x, y = (3 * normal(*shape) + 2).requires_grad_(), normal(*shape, seed=1)
    found, expected = barlow(x, y, off_diagonal=off_diagonal), published_barlow(x, y, off_diagonal)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(found, x)[0], torch.autograd.grad(expected, x)[0], rtol=1e-8, atol=1e-10
    )


def test_barlow_is_symmetric_invariant_to_scale_and_zero_for_equal_independent_dimensions() -> None:
    x, y = normal(20, 5), normal(20, 5, seed=1)
    both = barlow(x, y, off_diagonal=0.1)
    torch.testing.assert_close(barlow(y, x, off_diagonal=0.1), both)
    torch.testing.assert_close(barlow(100 * x + 3, y, off_diagonal=0.1), both, rtol=1e-4, atol=0)
    independent = torch.linalg.qr(normal(40, 6) - normal(40, 6).mean(0))[0] * 40
    assert float(barlow(independent, independent, off_diagonal=1)) < 1e-6


def test_barlow_of_a_constant_embedding_is_its_width_with_finite_gradients() -> None:
    x = torch.full((6, 4), 0.3).requires_grad_()
    loss = barlow(x, torch.full((6, 4), 0.7), off_diagonal=0.1)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 4
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


# SIGReg


def naive_distance(x: Tensor, directions: Tensor) -> float:
    """LeJEPA's published sum, in loops."""
    nodes = np.linspace(0, 3, 17)
    step = 3 / 16
    total = 0.0
    for a in directions.T.numpy():
        projected = x.numpy() @ a
        for place, t in enumerate(nodes):
            weight = (step if place in (0, 16) else 2 * step) * np.exp(-t * t / 2)
            cosine, sine = np.cos(t * projected).mean(), np.sin(t * projected).mean()
            total += weight * ((cosine - np.exp(-t * t / 2)) ** 2 + sine**2)
    return float(len(x) * total / directions.shape[1])


def test_the_distance_equals_the_naive_sum_and_nearly_the_integral() -> None:
    x, along = normal(12, 5) + 0.5, directions(7, 5)
    found = float(gaussian_distance(x, along))
    assert found == pytest.approx(naive_distance(x, along), rel=1e-12)

    def integrand(t: float) -> float:
        projected = t * (x @ along).numpy()
        cosine, sine = np.cos(projected).mean(0), np.sin(projected).mean(0)
        window = np.exp(-t * t / 2)
        return float((((cosine - window) ** 2 + sine**2) * window).mean())

    assert found == pytest.approx(2 * 12 * quad(integrand, 0, 3)[0], rel=1e-3)


def test_gradients_of_the_distance_are_those_of_finite_differences() -> None:
    along = directions(6, 3)
    assert torch.autograd.gradcheck(
        lambda x: gaussian_distance(x, along), normal(5, 3).mul(0.5).requires_grad_()
    )


def test_directions_are_unit_vectors_and_depend_on_the_seed_alone() -> None:
    found = directions(50, 8)
    torch.testing.assert_close(found.norm(dim=0), torch.ones(50, dtype=torch.float64))
    assert torch.equal(found, directions(50, 8))
    assert not torch.equal(found, directions(50, 8, seed=1))
    assert found.mean(1).abs().max() < 0.25


def test_a_normal_sample_is_nearer_than_any_other_and_does_not_depend_on_its_order() -> None:
    x, along = normal(400, 8), directions(64, 8)
    near = float(gaussian_distance(x, along))
    torch.testing.assert_close(gaussian_distance(x.flip(0), along), gaussian_distance(x, along))
    uniform = torch.rand(400, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for other in (2 * x, 0.5 * x, x + 0.5, uniform, torch.zeros_like(x), x[:, :1].expand(400, 8)):
        assert float(gaussian_distance(other, along)) > 3 * near


def test_a_constant_at_the_origin_has_the_documented_distance() -> None:
    for rows in (2, 256):
        zero = torch.zeros(rows, 5, dtype=torch.float64)
        found = float(gaussian_distance(zero, directions(9, 5)))
        assert constant_gaussian_distance(rows) == pytest.approx(found, rel=1e-12)


def test_training_may_follow_a_validation_in_inference_mode() -> None:
    x = normal(6, 3).float()
    along = random_directions(4, 3, torch.Generator().manual_seed(0), x)
    with torch.inference_mode():
        gaussian_distance(x, along)
    torch.autograd.backward(gaussian_distance(x.clone().requires_grad_(), along))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_those_of_the_same_numbers_in_float32(dtype: torch.dtype) -> None:
    x, y = normal(8, 4).to(dtype), normal(8, 4, seed=1).to(dtype)
    along = directions(5, 4).float()
    assert torch.equal(gaussian_distance(x, along), gaussian_distance(x.float(), along))
    assert torch.equal(
        barlow(x, y, off_diagonal=0.1), barlow(x.float(), y.float(), off_diagonal=0.1)
    )


def test_single_rows_are_refused() -> None:
    one = torch.ones(1, 4)
    with pytest.raises(TrainingError, match="at least 2 rows"):
        barlow(one, one, off_diagonal=0.1)
    with pytest.raises(TrainingError, match="at least 2 rows"):
        gaussian_distance(one, directions(3, 4).float())
