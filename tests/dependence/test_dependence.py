"""Distance correlation against the package dcor; its invariances, gradient and edge cases."""

from collections.abc import Callable
from typing import Any

import dcor
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.base.errors import TrainingError
from pipeline.base.precision import full_precision
from pipeline.dependence.distance_correlation import Sample, Statistic, distance_correlation
from pipeline.dependence.distances import pairwise_distances

torch.set_num_threads(1)  # importing dcor imports numba, which enables all cores

STATISTICS: tuple[Statistic, ...] = ("dcor", "dcor_squared", "dcor_squared_unbiased")
REFERENCES: dict[Statistic, Callable[..., float]] = {
    "dcor": dcor.distance_correlation,
    "dcor_squared": dcor.distance_correlation_sqr,
    "dcor_squared_unbiased": dcor.u_distance_correlation_sqr,
}
seeds = st.integers(0, 2**31)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(B: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two samples that depend on each other, but not linearly or perfectly."""
    x, noise = normal(B, 5, seed=seed), normal(B, 3, seed=seed + 1)
    return x, x[:, :3].abs() + 0.5 * noise


def value(x: Tensor, y: Tensor, statistic: Statistic) -> float:
    return float(distance_correlation(x, y, statistic=statistic))


BATCHES = {
    "independent": (normal(64, 7), normal(64, 4, seed=1)),
    "related": related(64),
    "far from the origin": (related(64)[0] + 1e4, related(64)[1] - 1e3),
    "perfectly dependent": (normal(32, 5), 3 * normal(32, 5) + 1),
    "duplicated rows": (normal(16, 5).repeat(3, 1), normal(48, 2, seed=1)),
    "all rows in pairs": (normal(12, 5).repeat(2, 1), normal(12, 2, seed=1).repeat(2, 1)),
    "constant side": (torch.full((20, 3), 0.1, dtype=torch.float64), normal(20, 2)),
    "both constant": (torch.ones(9, 3).double(), torch.full((9, 700), 1 / 3).double()),
    "four rows": (normal(4, 6), normal(4, 2, seed=1)),
    "five rows": (normal(5, 1), normal(5, 1, seed=1)),
    "wide": (normal(12, 3000), normal(12, 2000, seed=1)),
}


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("batch", BATCHES)
def test_equals_the_package_dcor(batch: str, statistic: Statistic) -> None:
    x, y = BATCHES[batch]
    expected = REFERENCES[statistic](x.numpy(), y.numpy())
    assert value(x, y, statistic) == pytest.approx(expected, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("B", [2, 3])
def test_biased_statistics_of_tiny_batches_equal_the_package_dcor(B: int) -> None:
    x, y = normal(B, 3), normal(B, 2, seed=1)
    expected = dcor.distance_correlation(x.numpy(), y.numpy())
    assert value(x, y, "dcor") == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("B", [1, 2, 3])
def test_unbiased_statistic_refuses_fewer_than_four_rows(B: int) -> None:
    with pytest.raises(TrainingError, match=f"at least 4 rows in a batch; found {B}"):
        value(normal(B, 3), normal(B, 3), "dcor_squared_unbiased")


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(0, 3), torch.zeros(2, 2, 2)])
def test_refuses_what_is_not_a_matrix_of_rows(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="matrix"):
        Sample(bad)


def test_refuses_samples_of_different_length() -> None:
    with pytest.raises(ValueError, match="found 5 and 6"):
        distance_correlation(normal(5, 2), normal(6, 2))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_float32_agrees_with_float64(statistic: Statistic) -> None:
    x, y = related(256)
    # The shift costs only the digits that float32 loses of the input itself.
    single = value(x.float() + 8, y.float(), statistic)
    assert single == pytest.approx(value(x, y, statistic), abs=2e-6)


def test_distances_equal_direct_differences_and_the_diagonal_is_zero() -> None:
    x = normal(40, 300) + 50
    direct = (x[:, None] - x).norm(dim=2)
    torch.testing.assert_close(pairwise_distances(x), direct, rtol=1e-13, atol=0)
    single = pairwise_distances(x.float())
    torch.testing.assert_close(single, direct.float(), rtol=2e-6, atol=0)
    assert (single.diagonal() == 0).all()
    assert (single == single.T).all()


def test_distances_of_coincident_rows_are_exactly_zero() -> None:
    x = normal(1, 999).float().repeat(33, 1)
    x[20:] += 3
    distances = pairwise_distances(x)
    assert (distances[:20, :20] == 0).all()
    assert (distances[20:, 20:] == 0).all()
    assert (distances[:20, 20:] > 0).all()


def test_close_pairs_are_as_precise_as_documented() -> None:
    x = normal(30, 64)
    y = x + 0.01 * normal(30, 64, seed=1)
    both = torch.cat([x, y])
    exact = (both[:, None] - both).norm(dim=2)
    squared_norm = (both - both.mean(0)).square().sum(1).max()
    bound = 8 * torch.finfo(torch.float32).eps * squared_norm / exact.clamp_min(1e-9)
    found = pairwise_distances(both.float()).double()
    assert ((found - exact).abs() <= bound)[exact > 0].all()


@given(seed=seeds, scale=st.floats(1e-3, 1e3), statistic=st.sampled_from(STATISTICS))
@settings(max_examples=30, deadline=None)
def test_invariant_to_scale_shift_and_rotation(
    seed: int, scale: float, statistic: Statistic
) -> None:
    x, y = related(24, seed)
    rotation = torch.linalg.qr(normal(5, 5, seed=seed + 2))[0]
    moved = scale * x @ rotation + normal(5, seed=seed + 3)
    assert value(moved, y, statistic) == pytest.approx(value(x, y, statistic), abs=1e-8)


@given(seed=seeds, statistic=st.sampled_from(STATISTICS))
@settings(max_examples=30, deadline=None)
def test_symmetric_and_invariant_to_the_order_of_rows(seed: int, statistic: Statistic) -> None:
    x, y = related(24, seed)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    expected = value(x, y, statistic)
    assert value(y, x, statistic) == pytest.approx(expected, abs=1e-12)
    assert value(x[order], y[order], statistic) == pytest.approx(expected, abs=1e-12)


@given(seed=seeds, B=st.integers(4, 20))
@settings(max_examples=30, deadline=None)
def test_ranges(seed: int, B: int) -> None:
    x, y = related(B, seed)
    assert 0 <= value(x, y, "dcor") <= 1 + 1e-12
    assert value(x, y, "dcor_squared") == pytest.approx(value(x, y, "dcor") ** 2, abs=1e-12)
    assert -1 - 1e-12 <= value(x, y, "dcor_squared_unbiased") <= 1 + 1e-12
    assert value(x, 2 * x, "dcor_squared_unbiased") == pytest.approx(1)


def test_only_the_unbiased_statistic_is_near_zero_for_independent_wide_rows() -> None:
    x, y = normal(256, 512), normal(256, 512, seed=1)
    assert value(x, y, "dcor") == pytest.approx(0.94, abs=0.01)
    assert abs(value(x, y, "dcor_squared_unbiased")) < 0.02


@pytest.mark.parametrize("statistic", STATISTICS)
def test_gradient_equals_finite_differences(statistic: Statistic) -> None:
    x, y = related(7)

    def function(a: Tensor, b: Tensor) -> Tensor:
        return distance_correlation(a, b, statistic=statistic)

    assert torch.autograd.gradcheck(function, (x.requires_grad_(), y.requires_grad_()))


def direct(x: Tensor, y: Tensor) -> Tensor:
    """Distance correlation by its definition, from differences of all pairs."""

    def centred(z: Tensor) -> Tensor:
        squares = (z[:, None] - z).square().sum(-1)
        zero = squares == 0
        a = torch.where(zero, 0.0, torch.where(zero, 1.0, squares).sqrt())
        return a - a.mean(0, keepdim=True) - a.mean(1, keepdim=True) + a.mean()

    A, B = centred(x), centred(y)
    return ((A * B).mean() / ((A * A).mean() * (B * B).mean()).sqrt()).sqrt()


@pytest.mark.parametrize("statistic", STATISTICS)
def test_works_under_the_function_transforms_of_torch(statistic: Statistic) -> None:
    xs, ys = normal(3, 24, 5), normal(3, 24, 4, seed=1)

    def of(x: Tensor, y: Tensor) -> Tensor:
        return distance_correlation(x, y, statistic=statistic)

    several = torch.func.vmap(of)(xs, ys)
    torch.testing.assert_close(
        several, torch.stack([of(x, y) for x, y in zip(xs, ys, strict=True)])
    )
    x = xs[0].clone().requires_grad_()
    of(x, ys[0]).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    torch.testing.assert_close(torch.func.grad(of)(xs[0], ys[0]), x.grad)
    many = torch.func.vmap(torch.func.grad(of))(xs, ys)
    torch.testing.assert_close(many[0], x.grad)


def test_second_derivatives_are_those_of_the_definition() -> None:
    (x, y), weights = related(24), normal(24, 5, seed=9)
    found, expected = (
        torch.func.grad(lambda a, of=of: (torch.func.grad(of)(a, y) * weights).sum())(x)
        for of in (distance_correlation, direct)
    )
    torch.testing.assert_close(found, expected)


def test_gradient_of_distances_holds_for_any_gradient_from_above() -> None:
    weights = normal(6, 6, seed=9)  # not symmetric
    x = normal(6, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: (pairwise_distances(a) * weights).sum(), (x,))


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("batch", ["duplicated rows", "constant side", "perfectly dependent"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_the_edges(
    batch: str, statistic: Statistic, dtype: torch.dtype
) -> None:
    x, y = (side.to(dtype).requires_grad_() for side in BATCHES[batch])
    torch.autograd.backward(distance_correlation(x, y, statistic=statistic))
    assert x.grad is not None
    assert y.grad is not None
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(y.grad).all()
    if batch == "constant side":
        assert not x.grad.any()
        assert not y.grad.any()


@pytest.mark.parametrize("statistic", STATISTICS)
def test_exactly_independent_rows_give_zero_and_a_finite_gradient(statistic: Statistic) -> None:
    x = torch.tensor([[0.0], [0.0], [1.0], [1.0]]).repeat(3, 1).requires_grad_()
    y = torch.tensor([[0.0], [1.0], [0.0], [1.0]]).repeat(3, 1)
    found = distance_correlation(x, y, statistic=statistic)
    (gradient,) = torch.autograd.grad(found, x)
    expected = REFERENCES[statistic](x.detach().double().numpy(), y.double().numpy())
    assert found.item() == pytest.approx(expected, abs=1e-6)
    assert torch.isfinite(gradient).all()


def test_distances_that_are_all_rounding_are_zero_and_do_not_pull() -> None:
    x = normal(32, 64).float()
    twins = torch.cat([x, x * (1 + 1e-5)]).requires_grad_()
    distances = pairwise_distances(twins)
    between_twins = distances.diagonal(32)
    assert not between_twins.any()
    assert (distances > 0).sum() == 64 * 62
    assert not torch.autograd.grad(between_twins.sum(), twins)[0].any()


def test_equidistant_rows_leave_the_unbiased_statistic_zero_not_noise() -> None:
    x, y = torch.eye(20), normal(20, 3).float()
    assert value(x, y, "dcor_squared_unbiased") == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_values_that_are_not_finite_are_not_hidden(bad: float, statistic: Statistic) -> None:
    x, y = related(12)
    x[3, 1] = bad
    assert np.isnan(value(x, y, statistic))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inside_autocast_everything_is_computed_in_float32(dtype: torch.dtype) -> None:
    x, y = (side.float() for side in related(64))
    x.requires_grad_()
    outside = distance_correlation(x, y)
    (expected,) = torch.autograd.grad(outside, x)
    with torch.autocast("cpu", dtype=dtype):
        inside = distance_correlation(x, y)
        (found,) = torch.autograd.grad(inside, x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_of_half_precision_are_only_rounded_once(dtype: torch.dtype) -> None:
    x, y = (side.to(dtype) for side in related(64))
    expected = value(x.double(), y.double(), "dcor")
    assert value(x, y, "dcor") == pytest.approx(expected, abs=1e-6)


def test_full_precision_puts_the_settings_of_the_process_back_after_an_error() -> None:
    before = torch.get_float32_matmul_precision()
    backends: Any = torch.backends
    seen = []

    def fail() -> None:
        with full_precision(torch.device("cpu")):
            seen.append(backends.cuda.matmul.fp32_precision)
            raise RuntimeError("inside")

    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(RuntimeError, match="inside"):
            fail()
        assert seen == ["ieee"]
        assert torch.get_float32_matmul_precision() == "medium"
        assert backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


def test_an_unknown_statistic_is_refused_rather_than_taken_for_another() -> None:
    x = torch.randn(8, 2)
    with pytest.raises(ValueError, match=r"Unknown statistic 'dcorr'\. Did you mean 'dcor'"):
        distance_correlation(x, x, statistic="dcorr")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statistic", "rows"), [("dcor", 1), ("dcor_squared", 1), ("dcor_squared_unbiased", 3)]
)
def test_too_few_rows_are_refused(statistic: Statistic, rows: int) -> None:
    x = torch.randn(rows, 2)
    with pytest.raises(TrainingError, match=rf"needs at least \d .*found {rows}"):
        distance_correlation(x, x, statistic=statistic)


def test_complex_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"real numbers; found torch\.complex64"):
        distance_correlation(torch.randn(4, 2, dtype=torch.complex64), torch.randn(4, 2))


@pytest.mark.parametrize("statistic", ["dcor", "dcor_squared", "dcor_squared_unbiased"])
@pytest.mark.parametrize(
    ("dtype", "scales"),
    [
        (torch.float64, (1e-300, 1e-200, 1e-20, 1e20, 1e200, 1e300)),
        (torch.float32, (1e-36, 1e-30, 1e-20, 1e20, 1e30, 1e36)),
    ],
)
def test_no_statistic_depends_on_the_scale_of_a_side(
    statistic: Statistic, dtype: torch.dtype, scales: tuple[float, ...]
) -> None:
    x, y = normal(40, 6).to(dtype), (normal(40, 3, seed=1) + normal(40, 6)[:, :3]).to(dtype)
    expected = distance_correlation(x, y, statistic=statistic)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for scale in scales:
        scaled = (x * scale).requires_grad_()
        found = distance_correlation(scaled, y / scale, statistic=statistic)
        torch.testing.assert_close(found.detach(), expected, rtol=0, atol=tolerance)
        (gradient,) = torch.autograd.grad(found, scaled)
        assert torch.isfinite(gradient).all()
        if 1e-36 < scale < 1e36:  # that of the largest scales is smaller than the type holds
            plain = x.clone().requires_grad_()
            (known,) = torch.autograd.grad(
                distance_correlation(plain, y, statistic=statistic), plain
            )
            torch.testing.assert_close(gradient * scale, known, rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("power", [-100, -7, -1, 1, 8, 90])
def test_a_power_of_two_changes_no_bit(power: int) -> None:
    x, y = normal(40, 6).float(), normal(40, 3, seed=1).float()
    assert torch.equal(distance_correlation(x * 2.0**power, y), distance_correlation(x, y))


def test_a_large_constant_column_hides_no_small_one() -> None:
    x, y = normal(64, 3), normal(64, 2, seed=1)
    wide = torch.cat([x, torch.full((64, 1), 2.0**900, dtype=x.dtype)], 1)
    expected = distance_correlation(x, y)
    for scale in (1.0, 1e-100):
        wide[:, :3] = x * scale
        torch.testing.assert_close(distance_correlation(wide, y), expected)
