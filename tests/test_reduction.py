"""PCA against scikit-learn, random projections against their theory, and what fidelity says."""

from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch import Tensor

from pipeline import reduction
from pipeline.errors import ConfigError, DataError, StoreError
from pipeline.reduction import (
    Projection,
    ReduceOptions,
    Reduction,
    fit_pca,
    fit_reduction,
    measure_fidelity,
)


def images(N: int, D: int, seed: int = 0) -> Tensor:
    """Vectors with a mean, and variances that fall as those of natural images do."""
    random = torch.Generator().manual_seed(1000)
    mixing = torch.linalg.qr(torch.randn(D, min(D, 200), generator=random))[0]
    scales = torch.arange(1, mixing.shape[1] + 1) ** -0.8
    scores = torch.randn(N, mixing.shape[1], generator=torch.Generator().manual_seed(seed))
    vectors: Tensor = (scores * scales) @ mixing.T + torch.linspace(-2, 2, D)
    return vectors


def distances(x: Tensor) -> Tensor:
    wide = x.double()
    lengths: Tensor = (wide[:, None] - wide).norm(dim=2)
    return lengths


def reconstruction_error(x: Tensor, reduced: Reduction) -> float:
    return float((reduced.restore(reduced.apply(x)) - x).square().sum())


@pytest.mark.parametrize(("N", "D"), [(300, 60), (60, 300), (150, 150)])
def test_exact_pca_equals_scikit_learn(N: int, D: int) -> None:
    x, unseen = images(N, D), images(40, D, seed=1)
    found = fit_pca(x, 20, seed=0)
    expected = PCA(20, svd_solver="full").fit(x.double().numpy())
    assert found.pca is not None
    assert found.pca.explained_variance == pytest.approx(
        expected.explained_variance_ratio_.sum(), rel=1e-6
    )
    scores = torch.from_numpy(expected.transform(unseen.double().numpy()))
    torch.testing.assert_close(
        distances(found.apply(unseen)), distances(scores), rtol=1e-5, atol=1e-6
    )


def test_randomised_pca_is_as_good_as_scikit_learns_exact_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reduction, "EXACT_LIMIT", 100)
    x = images(400, 500)
    found = fit_pca(x, 30, seed=0)
    expected = PCA(30, svd_solver="full").fit(x.double().numpy())
    assert found.pca is not None
    ratio = expected.explained_variance_ratio_.sum()
    assert found.pca.explained_variance == pytest.approx(ratio, rel=1e-4)
    assert found.pca.explained_variance <= ratio + 1e-6
    again = fit_pca(x, 30, seed=0)
    assert torch.equal(found.apply(x), again.apply(x))


@pytest.mark.parametrize("limit", [10, 1024])
def test_the_basis_is_orthonormal_even_beyond_the_rank_of_the_sample(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduction, "EXACT_LIMIT", limit)
    x = images(6, 50).repeat(10, 1)
    found = fit_pca(x, 20, seed=0).pca
    assert found is not None
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(20), rtol=0, atol=1e-5)
    assert found.explained_variance == pytest.approx(1, abs=1e-5)


def test_all_components_keep_distances_and_restore_the_vectors() -> None:
    x = images(90, 30)
    found = fit_pca(x, 30, seed=0)
    unseen = images(20, 30, seed=5)
    reduced = found.apply(unseen)
    torch.testing.assert_close(distances(reduced), distances(unseen), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.restore(reduced), unseen, rtol=1e-4, atol=1e-5)


def test_restoring_is_better_with_more_components() -> None:
    x = images(200, 80)
    errors = [reconstruction_error(x, fit_pca(x, K, seed=0)) for K in (5, 20, 60)]
    assert errors[0] > errors[1] > errors[2]


def test_a_sample_of_one_image_repeated_has_nothing_to_lose() -> None:
    x = torch.full((20, 10), 0.3)
    found = fit_pca(x, 3, seed=0)
    assert found.pca is not None
    assert found.pca.explained_variance == 1
    torch.testing.assert_close(found.apply(x), torch.zeros(20, 3))


@pytest.mark.parametrize(("N", "D"), [(10, 50), (50, 10)])
def test_more_components_than_images_or_numbers_are_refused(N: int, D: int) -> None:
    with pytest.raises(ConfigError, match=rf"11 principal .* found {N} images of {D} numbers"):
        fit_pca(images(N, D), 11, seed=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    x = images(30, 10)
    x[4, 2] = bad
    with pytest.raises(DataError, match="not finite"):
        fit_pca(x, 3, seed=0)


def test_a_sample_above_the_memory_bound_is_projected_first() -> None:
    x, unseen = images(300, 20_000), images(256, 20_000, seed=1)
    found = fit_pca(x, 40, seed=0, memory_bytes=300 * 4 * 4000)
    assert found.projection is not None
    assert found.projection.width == 4000
    assert found.apply(unseen).shape == (256, 40)
    fidelity = measure_fidelity(unseen, found.apply(unseen), seed=0)
    exact = measure_fidelity(unseen, fit_pca(x, 40, seed=0).apply(unseen), seed=0)
    assert fidelity.dcor_error_max < exact.dcor_error_max + 3e-3
    with pytest.raises(StoreError, match="cannot be undone"):
        found.restore(found.apply(unseen))


# Random projections


def test_a_projection_equals_its_dense_matrix() -> None:
    projection = Projection.draw(53, 8, 0)
    matrix = torch.zeros(53, 8)
    matrix[torch.arange(53), projection.outputs] = projection.signs
    x = images(9, 53)
    torch.testing.assert_close(projection.apply(x), x @ matrix)
    used = matrix.abs().sum(0)
    assert used.min() == 53 // 8
    assert used.max() == 53 // 8 + 1


def test_rows_are_projected_in_blocks_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    projection, x = Projection.draw(500, 20, 0), images(70, 500)
    expected = projection.apply(x)
    monkeypatch.setattr(reduction, "BLOCK_NUMBERS", 3 * 500)
    assert torch.equal(projection.apply(x), expected)
    assert projection.apply(x[:0]).shape == (0, 20)


def test_squared_lengths_are_right_on_average_with_the_documented_variance() -> None:
    v = images(1, 400)[0]
    found = torch.stack(
        [Projection.draw(400, 50, seed).apply(v[None]).square().sum() for seed in range(600)]
    )
    squared = v.square().sum().item()
    variance = 2 / 50 * (squared**2 - v.pow(4).sum().item())
    four_deviations = 4 * (variance / 600) ** 0.5
    assert found.mean().item() == pytest.approx(squared, abs=four_deviations)
    assert found.var().item() < 1.25 * variance


def test_the_seed_decides_the_projection() -> None:
    x = images(5, 100)
    options = ReduceOptions(projection=10)
    first, again = (fit_reduction(x, options, seed=3).apply(x) for _ in range(2))
    other = fit_reduction(x, options, seed=4).apply(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_projection_to_more_numbers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"to 11 numbers .* has 10"):
        fit_reduction(images(5, 10), ReduceOptions(projection=11), seed=0)


# All kinds


KINDS: dict[str, Callable[[Tensor], Reduction]] = {
    "nothing": lambda x: fit_reduction(x, ReduceOptions(), seed=0),
    "projection": lambda x: fit_reduction(x, ReduceOptions(projection=9), seed=0),
    "pca": lambda x: fit_reduction(x, ReduceOptions(pca=9), seed=0),
    "both": lambda x: fit_reduction(x, ReduceOptions(pca=9), seed=0, memory_bytes=80 * 4 * 40),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_loads_as_the_same_reduction(kind: str) -> None:
    x = images(80, 120)
    found = KINDS[kind](x)
    arrays, attributes = found.arrays(), found.attributes()
    assert all(np.issubdtype(array.dtype, np.floating) for array in arrays.values())
    loaded = Reduction.load(arrays, {**attributes, "something": "else"})
    assert torch.equal(loaded.apply(x), found.apply(x))
    assert found.apply(x).dtype == torch.float32
    if arrays:
        with pytest.raises(StoreError, match="lacks"):
            Reduction.load({}, attributes)
    with pytest.raises(StoreError, match="lacks"):
        Reduction.load(arrays, {})


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 20))
@settings(max_examples=10, deadline=None)
def test_a_row_is_reduced_alike_in_any_batch(kind: str, seed: int, rows: int) -> None:
    found = KINDS[kind](images(80, 120))
    x = images(20, 120, seed=seed)
    torch.testing.assert_close(
        found.apply(x[:rows].half().float()), found.apply(x.half())[:rows], rtol=1e-5, atol=1e-5
    )


# Fidelity


def test_keeping_everything_costs_nothing() -> None:
    x = images(512, 60)
    fidelity = measure_fidelity(x, x, seed=0)
    assert asdict(fidelity) == {
        "dcor_error_max": 0,
        "dcor_error_mean": 0,
        "gradient_error": 0,
        "explained_variance": 1,
        "bytes_per_image": 240,
    }
    half = measure_fidelity(x, x.half(), seed=0)
    assert half.bytes_per_image == 120
    assert 0 < half.dcor_error_max < 1e-4


def test_fidelity_grows_with_components_and_is_higher_than_a_projections() -> None:
    x, unseen = images(600, 300), images(512, 300, seed=1)
    reductions = [fit_pca(x, K, seed=0) for K in (8, 32, 128)]
    found = [measure_fidelity(unseen, r.apply(unseen).half(), seed=0) for r in reductions]
    for worse, better in pairwise(found):
        assert worse.dcor_error_max > better.dcor_error_max
        assert worse.dcor_error_mean > better.dcor_error_mean
        assert worse.gradient_error > better.gradient_error
        assert worse.explained_variance < better.explained_variance < 1
    projected = fit_reduction(x, ReduceOptions(projection=128), seed=0).apply(unseen).half()
    assert measure_fidelity(unseen, projected, seed=0).gradient_error > found[2].gradient_error


def test_another_representation_is_not_faithful() -> None:
    fidelity = measure_fidelity(images(256, 60), images(256, 60, seed=1), seed=0)
    assert fidelity.dcor_error_max > 0.1
    assert fidelity.gradient_error > 0.5


def test_few_images_make_one_batch_and_constants_lose_nothing() -> None:
    x = images(9, 20)
    assert measure_fidelity(x, x, seed=0).dcor_error_max == 0
    flat = torch.ones(9, 20)
    fidelity = measure_fidelity(flat, flat[:, :3], seed=0)
    assert fidelity.dcor_error_max == fidelity.gradient_error == 0
    assert fidelity.explained_variance == 1


def test_fidelity_refuses_what_it_cannot_measure() -> None:
    x = images(20, 5)
    with pytest.raises(DataError, match="found 1 and 1"):
        measure_fidelity(x[:1], x[:1], seed=0)
    with pytest.raises(DataError, match="found 20 and 19"):
        measure_fidelity(x, x[:19], seed=0)
    with pytest.raises(DataError, match=r"too large for torch\.float16: use dtype float32"):
        measure_fidelity(x * 1e5, (x * 1e5).half(), seed=0)
