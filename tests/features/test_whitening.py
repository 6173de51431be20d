"""The geometry of stored vectors, against a loop over components."""

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from torch import Tensor

from pipeline.base.errors import ArgumentError
from pipeline.features.whitening import SHRINKAGE, divisors, hadamard, whitened


def rows(seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    scales = torch.tensor([30.0, 3.0, 1.0, 0.2, 0.01], dtype=torch.float64)
    return 7 + scales * torch.randn(50, 5, generator=random, dtype=torch.float64)


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), x.std(0, correction=0)


@pytest.mark.parametrize("exponent", [0, 0.3, 0.5, 1])
@pytest.mark.parametrize("shrinkage", [0, 1e-3, 1])
def test_each_component_is_centred_and_divided_by_its_shrunk_deviation(
    exponent: float, shrinkage: float
) -> None:
    x = rows()
    mean, deviation = statistics(x)
    found = whitened(x, mean, deviation, exponent, shrinkage=shrinkage).numpy()
    typical = np.mean([s**2 for s in deviation.numpy()])
    for k in range(5):
        shrunk = np.sqrt((1 - shrinkage) * deviation[k].item() ** 2 + shrinkage * typical)
        expected = (x[:, k].numpy() - mean[k].item()) / shrunk**exponent
        np.testing.assert_allclose(found[:, k], expected, rtol=1e-12)


def test_an_exponent_of_one_without_shrinkage_standardises_and_zero_only_centres() -> None:
    x = rows()
    mean, deviation = statistics(x)
    standard = whitened(x, mean, deviation, 1, shrinkage=0)
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(whitened(x, mean, deviation, 0), x - mean)


@pytest.mark.parametrize("width", [1, 2, 8, 64])
def test_the_rotation_is_scipys_hadamard_matrix(width: int) -> None:
    expected = scipy.linalg.hadamard(width) / np.sqrt(width)
    np.testing.assert_allclose(hadamard(width).numpy(), expected, rtol=1e-6)


def test_principal_components_vary_alike_after_one_rotation_and_one_scale() -> None:
    mixed = rows().numpy() @ np.random.default_rng(1).normal(size=(5, 8))
    mixed += np.random.default_rng(2).normal(size=mixed.shape)  # so that no component is constant
    components = PCA(8).fit_transform(mixed) + 3
    x = torch.from_numpy(components)
    found = whitened(x, *statistics(x), "phi_s").numpy()
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-12)
    # The rotation is kept in float32.
    np.testing.assert_allclose(found.std(0), 1, rtol=1e-6)
    scale = np.sqrt(components.var(0).mean())
    np.testing.assert_allclose(pdist(found), pdist(components) / scale, rtol=1e-6)
    centred = components - components.mean(0)
    back = scale * found @ scipy.linalg.hadamard(8).T / np.sqrt(8)
    np.testing.assert_allclose(back, centred, atol=1e-5)


def test_constant_components_stay_finite_and_other_widths_are_refused() -> None:
    x = torch.full((3, 4), 2.5)
    assert torch.equal(whitened(x, *statistics(x), "phi_s"), torch.zeros(3, 4))
    for width in (0, 3, 96):
        with pytest.raises(ArgumentError, match="power of two"):
            hadamard(width)


def test_rounding_noise_is_enlarged_at_most_by_the_bound() -> None:
    deviation = torch.tensor([1.0] * 99 + [1e-9])
    found = divisors(deviation, 1)
    assert found[0] / found[-1] <= SHRINKAGE**-0.5 * 1.01
    assert found[0] == pytest.approx(1, rel=1e-3)


def test_components_that_do_not_vary_are_only_centred() -> None:
    x = torch.full((4, 3), 2.5)
    found = whitened(x, *statistics(x), 1)
    assert torch.equal(found, torch.zeros(4, 3))


def test_the_rows_of_a_batch_do_not_depend_on_each_other() -> None:
    x = rows()
    given = statistics(rows(1))
    together = whitened(x, *given, 0.5)
    assert torch.equal(whitened(x[3:4], *given, 0.5), together[3:4])


@pytest.mark.parametrize(("exponent", "shrinkage"), [(-0.1, 0), (1.1, 0), (0.5, 2), (0.5, -1)])
def test_numbers_out_of_range_are_refused(exponent: float, shrinkage: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        divisors(torch.ones(3), exponent, shrinkage=shrinkage)
