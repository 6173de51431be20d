"""Histograms of oriented gradients against loops in NumPy, and their invariances."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.base.errors import ConfigError
from pipeline.images.original_view import ImageOptions
from pipeline.representations.hog import HogOptions, hog

IMAGE = ImageOptions(size=16, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def gradients(image: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return Sobel derivatives along x and y of one plane, from SciPy."""
    dx = ndimage.sobel(image, axis=1, mode="nearest")
    dy = ndimage.sobel(image, axis=0, mode="nearest")
    return dx, dy


def naive_hog(image: np.ndarray[Any, Any], bins: int, cell: int) -> np.ndarray[Any, Any]:
    """Return (bins, h, w) of one plane, pixel by pixel."""
    h, w = (side // cell for side in image.shape)
    dx, dy = gradients(image)
    result = np.zeros((bins, h, w))
    for y in range(h * cell):
        for x in range(w * cell):
            magnitude = math.sqrt(dx[y, x] ** 2 + dy[y, x] ** 2)
            position = (math.atan2(dy[y, x], dx[y, x]) % math.pi) / math.pi * bins
            lower = math.floor(position)
            share = position - lower
            result[lower % bins, y // cell, x // cell] += (1 - share) * magnitude / cell**2
            result[(lower + 1) % bins, y // cell, x // cell] += share * magnitude / cell**2
    return result


@pytest.mark.parametrize(
    ("shape", "bins", "cell"), [((16, 16), 24, 8), ((19, 9), 9, 4), ((8, 13), 2, 1), ((9, 9), 7, 5)]
)
def test_agrees_with_loops_over_pixels(shape: tuple[int, int], bins: int, cell: int) -> None:
    images = random_images(2, 3, *shape)
    actual = hog(images, bins=bins, cell=cell).numpy()
    for row in range(2):
        for channel in range(3):
            expected = naive_hog(images[row, channel].numpy(), bins, cell)
            np.testing.assert_allclose(actual[row, channel], expected, atol=1e-12)


@given(
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    cell=st.integers(1, 8),
    bins=st.integers(2, 30),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25, deadline=None)
def test_keeps_the_mass_of_the_gradient(h: int, w: int, cell: int, bins: int, seed: int) -> None:
    image = random_images(1, 1, h * cell, w * cell, seed=seed)
    dx, dy = gradients(image[0, 0].numpy())
    mass = float(hog(image, bins=bins, cell=cell).sum()) * cell**2
    assert math.isclose(mass, float(np.hypot(dx, dy).sum()), rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bins_wrap_around_just_below_half_a_turn(dtype: torch.dtype) -> None:
    y, x = torch.meshgrid(*[torch.arange(8, dtype=dtype)] * 2, indexing="ij")
    rounding = 8 * 24 * torch.finfo(dtype).eps  # error of positions up to 24, in values
    for slope in (2**-10, 2**-20, 2**-40):
        ramp = (x - slope * y)[None, None]  # an angle of pi - slope, up to rounding
        inner = hog(ramp, bins=24, cell=1)[0, 0, :, 1:-1, 1:-1]
        magnitude = 8 * math.hypot(1, slope)
        assert torch.allclose(inner.sum(dim=0), torch.full((6, 6), magnitude, dtype=dtype))
        share = math.atan(slope) / math.pi * 24
        expected = torch.full((6, 6), magnitude * share, dtype=dtype)
        assert torch.allclose(inner[23], expected, rtol=0, atol=rounding)


def test_each_orientation_has_its_bin() -> None:
    y, x = torch.meshgrid(*[torch.arange(8, dtype=torch.float64)] * 2, indexing="ij")
    for k in range(6):
        angle = k * math.pi / 6
        ramp = (x * math.cos(angle) + y * math.sin(angle))[None, None]
        inner = hog(ramp, bins=6, cell=1)[0, 0, :, 2:-2, 2:-2]
        assert torch.allclose(inner[k], torch.full((4, 4), 8.0, dtype=torch.float64))


def test_ignores_contrast_reversal_and_brightness_and_scales_with_contrast() -> None:
    images = random_images(2, 3, 16, 16)
    expected = hog(images)
    assert torch.allclose(hog(-images), expected)
    assert torch.allclose(hog(images + 100), expected)
    assert torch.allclose(hog(2 * images), 2 * expected)


def test_moves_with_the_image_by_whole_cells() -> None:
    image = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    image[..., 9:15, 10:14] = random_images(6, 4)
    moved = hog(torch.roll(image, (8, 8), dims=(-2, -1)))
    assert torch.allclose(moved, torch.roll(hog(image), (1, 1), dims=(-2, -1)))


def test_flat_images_have_no_gradient_even_at_the_border() -> None:
    assert not hog(torch.full((1, 3, 16, 16), 7.3)).any()


def test_what_lies_beyond_the_last_cell_counts_only_through_the_gradient_beside_it() -> None:
    images = random_images(1, 1, 19, 19)
    changed = images.clone()
    changed[..., 17:, :] = 0
    changed[..., :, 17:] = 0
    assert torch.equal(hog(images), hog(changed))


def test_an_image_gives_the_same_vector_in_any_batch() -> None:
    images = random_images(4, 3, 16, 16).float()
    representation = HogOptions().build(IMAGE)
    together = representation(images)
    assert together.shape == (4, 3 * 24 * 2 * 2)
    assert torch.equal(together, torch.cat([representation(image[None]) for image in images]))


def test_refuses_a_cell_larger_than_the_image() -> None:
    with pytest.raises(ConfigError, match=r"cell of 17 pixels .* 16"):
        HogOptions(cell=17).build(IMAGE)


def test_identity_holds_bins_and_cell() -> None:
    identity = HogOptions(bins=9, cell=4).build(IMAGE).identity()
    assert (identity["kind"], identity["bins"], identity["cell"]) == ("hog", 9, 4)


@pytest.mark.parametrize(("cell", "bins"), [(64, 24), (0, 24), (8, 1)])
def test_cells_and_bins_that_are_none_are_refused(cell: int, bins: int) -> None:
    with pytest.raises(ConfigError, match="cells of at least 1 pixel that fit into 32 x 32"):
        hog(torch.zeros(1, 3, 32, 32), bins=bins, cell=cell)
