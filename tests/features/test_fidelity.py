"""Fidelity: the error of storing, and the fewest components that stay within a bound."""

from dataclasses import asdict
from itertools import pairwise

import dcor
import pytest
import torch
from torch import Tensor

from pipeline.base.errors import ConfigError, DataError, StoreError
from pipeline.dependence.distance_correlation import distance_correlation
from pipeline.features.encoding import Encoding
from pipeline.features.fidelity import Fidelity, Witness, fewest_components, measure_fidelity
from pipeline.features.principal_components import Pca, fit_pca
from pipeline.features.projection import Projection
from pipeline.features.whitening import SHRINKAGE
from pipeline.representations.storing import StoredType

torch.set_num_threads(1)  # importing dcor imports numba, which enables all cores


def images(N: int, D: int, seed: int = 0) -> Tensor:
    """Return vectors with a mean, and variances that decay like those of natural images."""
    random = torch.Generator().manual_seed(1000)
    mixing = torch.linalg.qr(torch.randn(D, min(D, 200), generator=random))[0]
    scales = torch.arange(1, mixing.shape[1] + 1) ** -0.8
    scores = torch.randn(N, mixing.shape[1], generator=torch.Generator().manual_seed(seed))
    vectors: Tensor = (scores * scales) @ mixing.T + torch.linspace(-2, 2, D)
    return vectors


def witnesses(original: Tensor, reduced: Tensor) -> list[Witness]:
    parts = zip(torch.split(original, 256), torch.split(reduced, 256), strict=True)
    return [Witness.of(x, y, 0, number) for number, (x, y) in enumerate(parts)]


def fidelity_of(original: Tensor, reduced: Tensor, stored_type: StoredType = "float32") -> Fidelity:
    encoding = Encoding.fit(stored_type, reduced.numpy())
    return measure_fidelity(witnesses(original, reduced), encoding)


def test_keeping_everything_costs_nothing() -> None:
    x = images(512, 60)
    assert asdict(fidelity_of(x, x)) == {
        "images": 512,
        "dcor_error_max": 0,
        "dcor_error_mean": 0,
        "dcor_error_independent": 0,
        "gradient_error": 0,
        "explained_variance": 1,
        "bytes_per_image": 240,
        "dcor_error_whitened": {"0.5": 0, "1": 0},
    }


def test_smaller_types_cost_more_and_little() -> None:
    x = images(512, 60)
    found = [fidelity_of(x, x, kind) for kind in ("float16", "bfloat16", "int8")]
    assert [f.bytes_per_image for f in found] == [120, 120, 60]
    assert 0 < found[0].dcor_error_max < found[1].dcor_error_max < 1e-3
    assert 0 < found[2].dcor_error_max < 1e-3


def test_the_error_is_that_of_the_statistic_on_the_vectors_themselves() -> None:
    x = images(256, 300)
    reduced = fit_pca(images(600, 300, seed=1), 16, seed=0).apply(x)
    (witness,) = witnesses(x, reduced)
    errors = [
        abs(float(distance_correlation(z, reduced) - distance_correlation(z, x)))
        for z in witness.embeddings
    ]
    found = fidelity_of(x, reduced)
    assert found.dcor_error_max == pytest.approx(errors[0], abs=1e-7)
    assert found.dcor_error_independent == pytest.approx(errors[1], abs=1e-7)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_the_error_of_a_geometry_is_that_of_the_missing_components_in_it(exponent: float) -> None:
    """Where the missing components vary alike, as is assumed, the whole geometry is known."""
    K, D, N = 16, 40, 256
    scales = torch.cat([torch.logspace(1, 0, K), torch.full((D - K,), 0.5)])
    # Exactly uncorrelated, so that the components of the rotated vectors are these.
    scores = torch.linalg.qr(images(N, D, seed=2) - images(N, D, seed=3))[0]
    scores = torch.linalg.qr(torch.cat([torch.ones(N, 1), scores], 1))[0][:, 1:] * (N - 1) ** 0.5
    x = scores * scales @ torch.linalg.qr(images(D, D, seed=4))[0]
    reduced = scores[:, :K] * scales[:K]
    (witness,) = witnesses(x, reduced)
    variance = scales.square()
    shrunk = (1 - SHRINKAGE) * variance + SHRINKAGE * variance[:K].mean()
    whole = scores * scales / shrunk ** (exponent / 2)
    z = witness.embeddings[0].double().numpy()
    of_whole, of_stored = (
        dcor.distance_correlation(z, rows.double().numpy()) for rows in (whole, whole[:, :K])
    )
    found = fidelity_of(x, reduced).dcor_error_whitened[f"{exponent:g}"]
    assert found == pytest.approx(abs(of_whole - of_stored), rel=2e-3)
    assert found > 1e-3


def test_a_reduction_loses_more_where_small_components_count_more() -> None:
    x, unseen = images(600, 300), images(512, 300, seed=1)
    fit = fit_pca(x, 32, seed=0)
    found = fidelity_of(unseen, fit.apply(unseen), "float16")
    half, whole = found.dcor_error_whitened.values()
    assert found.dcor_error_max < half < whole
    more = fit_pca(x, 128, seed=0)
    better = fidelity_of(unseen, more.apply(unseen), "float16").dcor_error_whitened
    assert better["0.5"] < half
    assert better["1"] < whole


def test_a_random_projection_has_no_components() -> None:
    x = images(256, 300)
    projected = Projection.draw(300, 128, 0).apply(x)
    witness = Witness.of(x, projected, 0, components=False)
    assert measure_fidelity([witness], Encoding("float16")).dcor_error_whitened == {}


def test_fidelity_grows_with_components_and_is_higher_than_a_projections() -> None:
    x, unseen = images(600, 300), images(512, 300, seed=1)
    fits = [fit_pca(x, K, seed=0) for K in (8, 32, 128)]
    found = [fidelity_of(unseen, fit.apply(unseen), "float16") for fit in fits]
    for worse, better in pairwise(found):
        assert worse.dcor_error_max > better.dcor_error_max
        assert worse.dcor_error_mean > better.dcor_error_mean
        assert worse.dcor_error_independent > better.dcor_error_independent
        assert worse.gradient_error > better.gradient_error
        assert worse.explained_variance < better.explained_variance < 1
    projected = Projection.draw(300, 128, 0).apply(unseen)
    assert fidelity_of(unseen, projected).gradient_error > found[2].gradient_error


def test_another_representation_is_not_faithful() -> None:
    found = fidelity_of(images(256, 60), images(256, 60, seed=1))
    assert found.dcor_error_max > 0.1
    assert found.gradient_error > 0.5


def test_constants_lose_nothing() -> None:
    flat = torch.ones(9, 20)
    found = fidelity_of(flat, flat[:, :3])
    assert found.dcor_error_max == found.gradient_error == 0
    assert found.explained_variance == 1


def test_what_cannot_be_measured_is_refused() -> None:
    x = images(20, 5)
    with pytest.raises(DataError, match="found 1 and 1"):
        Witness.of(x[:1], x[:1], 0)
    with pytest.raises(DataError, match="found 20 and 19"):
        Witness.of(x, x[:19], 0)
    with pytest.raises(StoreError, match="beyond the range of float16; set its dtype to float32"):
        fidelity_of(x * 1e5, x * 1e5, "float16")


@pytest.fixture(scope="module")
def fitted() -> tuple[Pca, list[Witness], list[Witness]]:
    pca = fit_pca(images(600, 300), 150, seed=0)
    choice, check = (witnesses(x, pca.apply(x)) for x in (images(512, 300, seed=s) for s in (1, 2)))
    return pca, choice, check


@pytest.mark.parametrize("bound", [3e-2, 3e-3])
def test_as_few_components_as_keep_the_bound(
    fitted: tuple[Pca, list[Witness], list[Witness]], bound: float
) -> None:
    _, choice, check = fitted
    encoding = Encoding("float16")
    found = fewest_components(choice, check, encoding, bound)
    kept = measure_fidelity(check, encoding, components=found)
    assert kept.dcor_error_max <= bound
    assert kept.bytes_per_image == 2 * found
    fewer = [
        measure_fidelity(part, encoding, components=found - 1).dcor_error_max
        for part in (choice, check)
    ]
    assert max(fewer) > bound
    assert 1 < found < 150


def test_a_bound_out_of_reach_says_what_can_be_had(
    fitted: tuple[Pca, list[Witness], list[Witness]],
) -> None:
    _, choice, check = fitted
    with pytest.raises(ConfigError, match="at most 1e-09; 150 principal components have"):
        fewest_components(choice, check, Encoding("float16"), 1e-9)
