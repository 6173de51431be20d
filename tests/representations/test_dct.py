"""The cosine transform against SciPy."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft

from pipeline.images.original_view import ImageOptions
from pipeline.representations.dct import DctOptions, dct_2d


def random_images(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@given(h=st.integers(1, 64), w=st.integers(1, 64))
@settings(max_examples=15, deadline=None)
def test_agrees_with_scipy(dtype: torch.dtype, tolerance: float, h: int, w: int) -> None:
    images = random_images(2, 3, h, w, dtype=dtype)
    expected = torch.from_numpy(fft.dctn(images.double().numpy(), type=2, axes=(-2, -1), norm=None))
    actual = dct_2d(images)
    assert actual.dtype == dtype
    assert float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max())


def test_holds_at_the_largest_images() -> None:
    image = random_images(1, 512, 300)
    expected = torch.from_numpy(fft.dctn(image[0].numpy(), type=2, norm=None))
    assert float((dct_2d(image)[0] - expected).abs().max()) <= 1e-12 * float(expected.abs().max())


def test_a_constant_image_has_only_its_mean() -> None:
    coefficients = dct_2d(torch.full((1, 8, 12), 0.5, dtype=torch.float64))
    assert coefficients[0, 0, 0].item() == pytest.approx(4 * 0.5 * 8 * 12)
    assert float(coefficients.flatten()[1:].abs().max()) < 1e-12


def test_distances_are_not_those_of_the_pixels() -> None:
    images = random_images(16, 64).view(16, 8, 8)
    pixels = torch.pdist(images.flatten(1))
    transformed = torch.pdist(dct_2d(images).flatten(1))
    ratio = transformed / pixels
    assert float(ratio.max() / ratio.min()) > 1.01


def test_an_image_gives_the_same_vector_in_any_batch() -> None:
    options = ImageOptions(size=12, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    representation = DctOptions().build(options)
    images = random_images(4, 3, 12, 12)
    together = representation(images)
    assert together.shape == (4, 3 * 12 * 12)
    alone = torch.cat([representation(image[None]) for image in images])
    assert torch.allclose(alone, together, rtol=0, atol=1e-12)
    assert representation.identity()["kind"] == "dct"
