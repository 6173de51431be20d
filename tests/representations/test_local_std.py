"""Local standard deviation against NumPy window by window, and where naive formulas fail."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.images.original_view import ImageOptions
from pipeline.representations.local_std import LocalStdOptions, local_std


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@given(h=st.integers(2, 9), w=st.integers(2, 9), seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_agrees_with_numpy_in_every_window(h: int, w: int, seed: int) -> None:
    image = random_images(1, 1, h, w, seed=seed)
    padded = np.pad(image[0, 0].numpy(), 1, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    np.testing.assert_allclose(local_std(image)[0, 0], windows.std(axis=(2, 3)), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, -3.3, 1000.0])
def test_flat_images_give_exactly_zero(dtype: torch.dtype, value: float) -> None:
    assert torch.equal(
        local_std(torch.full((1, 3, 8, 9), value, dtype=dtype)).double(),
        torch.zeros(1, 3, 8, 9, dtype=torch.float64),
    )


def test_a_large_mean_costs_no_digits() -> None:
    # Multiples of 1/16, so that single precision holds the sums exactly.
    images = (random_images(2, 3, 8, 8) * 16).round() / 16
    shifted = (images + 10_000).float()
    assert torch.allclose(local_std(shifted).double(), local_std(images), rtol=1e-5)


def test_half_precision_is_computed_in_single() -> None:
    images = random_images(2, 3, 8, 8).half()
    actual = local_std(images)
    assert actual.dtype == torch.float32
    assert torch.allclose(actual.double(), local_std(images.double()), rtol=1e-5)
    # Squares of these would overflow 16 bits.
    assert bool(local_std(images * 1000).isfinite().all())


def test_moves_with_the_image() -> None:
    image = random_images(1, 2, 12, 14)
    moved = local_std(image[..., 2:, 3:])
    assert torch.allclose(moved[..., 1:-1, 1:-1], local_std(image)[..., 3:-1, 4:-1])


def test_an_image_gives_the_same_vector_in_any_batch() -> None:
    options = ImageOptions(size=9, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    representation = LocalStdOptions().build(options)
    images = random_images(4, 3, 9, 9).float()
    together = representation(images)
    assert together.shape == (4, 3 * 9 * 9)
    assert torch.equal(together, torch.cat([representation(image[None]) for image in images]))
    assert representation.identity()["kind"] == "local_std"
