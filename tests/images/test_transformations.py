"""Fixed transformations: torchvision's, exact shifts, and the same for every subject."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from pipeline.images.transformations import Transformation


@pytest.fixture
def views() -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (8, 3, 20, 20), generator=source, dtype=torch.uint8)


def test_a_shift_by_whole_pixels_moves_them_and_uncovers_black(views: torch.Tensor) -> None:
    moved = Transformation("shift", 0.1)(views, first=0, seed=0)  # 2 of 20 pixels
    assert torch.equal(moved[0, :, :, 2:], views[0, :, :, :-2])  # right
    assert torch.equal(moved[1, :, 2:], views[1, :, :-2])  # down
    assert torch.equal(moved[2, :, :, :-2], views[2, :, :, 2:])  # left
    assert torch.equal(moved[3, :, :-2], views[3, :, 2:])  # up
    assert not moved[0, :, :, :2].any()
    assert torch.equal(moved[4, :, :, 2:], views[4, :, :, :-2])


@pytest.mark.parametrize(("kind", "amount"), [("rotation", 30.0), ("scale", 0.8), ("scale", 1.25)])
def test_turns_and_scales_are_those_of_torchvision(
    views: torch.Tensor, kind: str, amount: float
) -> None:
    smooth = tv.gaussian_blur(views, [7, 7])  # where rounding of places matters little
    moved = Transformation(kind, amount)(smooth, first=0, seed=0)  # type: ignore[arg-type]
    for number, (view, found) in enumerate(zip(smooth, moved, strict=True)):
        angle = -amount * (-1) ** number if kind == "rotation" else 0.0  # the first to the left
        expected = tv.affine(
            view,
            angle=angle,
            translate=[0, 0],
            scale=amount if kind == "scale" else 1.0,
            shear=[0.0, 0.0],
            interpolation=tv.InterpolationMode.BILINEAR,
        )
        assert (found.int() - expected.int()).abs().max() <= 1


def test_noise_has_its_deviation_and_is_drawn_for_each_image(views: torch.Tensor) -> None:
    grey = torch.full((50, 1, 20, 20), 128, dtype=torch.uint8)
    noisy = Transformation("noise", 0.1)(grey, first=0, seed=0)
    difference = (noisy.double() - 128).numpy() / 255
    assert np.std(difference) == pytest.approx(0.1, rel=0.03)
    assert abs(np.mean(difference)) < 0.002
    assert len({image.numpy().tobytes() for image in noisy}) == 50
    again = Transformation("noise", 0.1)(grey[10:], first=10, seed=0)
    assert torch.equal(again, noisy[10:])  # whatever the batch
    assert not torch.equal(Transformation("noise", 0.1)(grey, first=0, seed=1), noisy)
