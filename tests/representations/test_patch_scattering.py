"""Scattering of patches: each patch separately, in reading order."""

import pytest
import torch

from pipeline.base.errors import ConfigError
from pipeline.images.original_view import ImageOptions
from pipeline.representations.patch_scattering import PatchScattering2D, PatchScatteringOptions
from pipeline.representations.scattering import Scattering2D

IMAGE = ImageOptions(size=18, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)


def random_images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_each_patch_is_scattered_by_itself() -> None:
    images = random_images(2, 3, 18, 29)
    output = PatchScattering2D((18, 29), patches=2, J=2, L=4)(images)
    alone = Scattering2D((9, 14), J=2, L=4)
    assert output.shape == (2, 3, 2, 2, alone.channels, 2, 3)
    for row in range(2):
        for column in range(2):
            patch = images[..., 9 * row : 9 * row + 9, 14 * column : 14 * column + 14]
            assert torch.allclose(output[:, :, row, column], alone(patch), rtol=0, atol=1e-13)


def test_a_change_in_one_patch_leaves_the_others() -> None:
    images = random_images(1, 16, 16)
    changed = images.clone()
    changed[..., :4, 4:8] += 1
    transform = PatchScattering2D((16, 16), patches=4, J=1, L=4)
    difference = (transform(changed) - transform(images)).abs().amax(dim=(0, 3, 4, 5))
    assert difference[0, 1] > 0.1
    difference[0, 1] = 0
    assert float(difference.max()) < 1e-13


def test_an_image_gives_the_same_vector_in_any_batch() -> None:
    representation = PatchScatteringOptions(J=1).build(IMAGE)
    images = random_images(3, 3, 18, 18)
    together = representation(images)
    assert together.shape == (3, 3 * 16 * 9 * 2 * 2)
    alone = torch.cat([representation(image[None]) for image in images])
    assert torch.allclose(alone, together, rtol=0, atol=1e-13)


def test_identity_holds_every_number() -> None:
    identity = PatchScatteringOptions(patches=2, J=1, L=4, order=1).build(IMAGE).identity()
    expected = {"kind": "patch_scattering", "patches": 2, "J": 1, "L": 4, "order": 1}
    assert {key: identity[key] for key in expected} == expected


@pytest.mark.parametrize("patches", [5, 18, 19, 100])
def test_refuses_patches_that_leave_no_room(patches: int) -> None:
    with pytest.raises(ConfigError, match=rf"2\^J = 4 .* patches of {18 // patches} "):
        PatchScatteringOptions(patches=patches).build(IMAGE)
