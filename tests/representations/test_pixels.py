"""Pixels: the prepared image, unchanged."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.images.original_view import ImageOptions
from pipeline.representations.pixels import PixelsOptions

OPTIONS = ImageOptions(size=8, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def test_is_the_normalised_image_channel_by_channel() -> None:
    array = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    representation = PixelsOptions().build(OPTIONS)
    vectors = representation(representation.preparation(Image.fromarray(array))[None])
    expected = (array / 255 - np.array(OPTIONS.mean)) / np.array(OPTIONS.std)
    assert vectors.dtype == torch.float32
    np.testing.assert_allclose(vectors[0], expected.transpose(2, 0, 1).ravel(), atol=1e-5)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_keeps_double_precision_and_raises_the_others_to_single(
    given: torch.dtype, expected: torch.dtype
) -> None:
    images = torch.ones(2, 3, 8, 8, dtype=given)
    vectors = PixelsOptions().build(OPTIONS)(images)
    assert vectors.dtype == expected


def test_may_be_stored() -> None:
    assert PixelsOptions.storable
    identity = PixelsOptions().build(OPTIONS).identity()
    assert (identity["kind"], identity["implementation"]) == ("pixels", 1)
