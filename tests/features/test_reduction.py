"""PCA against scikit-learn, random projections against their theory."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch import Tensor
from watched import Watched

from pipeline.base.errors import ConfigError, DataError, StoreError
from pipeline.features import principal_components
from pipeline.features import projection as projecting
from pipeline.features.projection import Projection, first_projection
from pipeline.features.reduction import Reduction
from pipeline.representations.storing import ReduceOptions


def images(N: int, D: int, seed: int = 0) -> Tensor:
    """Return vectors with a mean, and variances that decay like those of natural images."""
    random = torch.Generator().manual_seed(1000)
    mixing = torch.linalg.qr(torch.randn(D, min(D, 200), generator=random))[0]
    scales = torch.arange(1, mixing.shape[1] + 1) ** -0.8
    scores = torch.randn(N, mixing.shape[1], generator=torch.Generator().manual_seed(seed))
    vectors: Tensor = (scores * scales) @ mixing.T + torch.linspace(-2, 2, D)
    return vectors


def fit_pca(x: Tensor, components: int, *, seed: int) -> Reduction:
    return Reduction(pca=principal_components.fit_pca(x, components, seed=seed))


def projected(x: Tensor, width: int, components: int | None = None) -> Reduction:
    projection = Projection.draw(x.shape[1], width, 0)
    if components is None:
        return Reduction(projection)
    return Reduction(
        projection, principal_components.fit_pca(projection.apply(x), components, seed=0)
    )


def distances(x: Tensor) -> Tensor:
    wide = x.double()
    lengths: Tensor = (wide[:, None] - wide).norm(dim=2)
    return lengths


def restored(reduced: Reduction, scores: Tensor) -> Tensor:
    """Reconstruct vectors from their scores, with the least squared error."""
    assert reduced.pca is not None
    return scores @ reduced.pca.basis.T + reduced.pca.mean


def reconstruction_error(x: Tensor, reduced: Reduction) -> float:
    return float((restored(reduced, reduced.apply(x)) - x).square().sum())


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
    monkeypatch.setattr(principal_components, "EXACT_LIMIT", 100)
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
    monkeypatch.setattr(principal_components, "EXACT_LIMIT", limit)
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
    torch.testing.assert_close(restored(found, reduced), unseen, rtol=1e-4, atol=1e-5)


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


def test_leading_components_are_those_of_a_smaller_fit() -> None:
    x = images(300, 60)
    many, few = fit_pca(x, 20, seed=0).pca, fit_pca(x, 5, seed=0).pca
    assert many is not None
    assert few is not None
    torch.testing.assert_close(many.first(5).apply(x), few.apply(x))
    assert many.first(5).explained_variance == pytest.approx(few.explained_variance, rel=1e-5)


def test_a_wide_representation_is_projected_before_its_pca(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert first_projection(20_000, ReduceOptions(pca=40), seed=0) is None
    monkeypatch.setattr(projecting, "PROJECTED_WIDTH", 4000)
    projection = first_projection(20_000, ReduceOptions(pca=40), seed=0)
    assert projection is not None
    assert projection.width == 4000
    x, unseen = images(300, 20_000), images(64, 20_000, seed=1)
    both = projected(x, 4000, 40)
    expected = distances(fit_pca(x, 40, seed=0).apply(unseen))
    torch.testing.assert_close(distances(both.apply(unseen)), expected, rtol=0.1, atol=0.05)


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
    monkeypatch.setattr(projecting, "BLOCK_NUMBERS", 3 * 500)
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
    first, again = (Projection.draw(100, 10, 3).apply(x) for _ in range(2))
    other = Projection.draw(100, 10, 4).apply(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_projection_to_more_numbers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"to 11 numbers .* has 10"):
        first_projection(10, ReduceOptions(projection=11), seed=0)


# All kinds


KINDS: dict[str, Callable[[Tensor], Reduction]] = {
    "nothing": lambda _: Reduction(),
    "projection": lambda x: projected(x, 9),
    "pca": lambda x: fit_pca(x, 9, seed=0),
    "both": lambda x: projected(x, 40, 9),
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


@pytest.mark.parametrize("wide", [300, 1200])  # exact, and by a sketch
def test_the_fit_is_counted_to_its_end(wide: int) -> None:
    watched = Watched()
    watched.start("fit", principal_components.PASSES, "passes")
    x = torch.randn(1100, wide, generator=torch.Generator().manual_seed(0))
    principal_components.fit_pca(x, 5, seed=0, progress=watched)
    assert watched.phases[0].done == principal_components.PASSES
