"""Gradients of hand-crafted representations, against finite differences."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from pipeline.images.original_view import ImageOptions
from pipeline.representations.dct import dct_2d
from pipeline.representations.hog import hog
from pipeline.representations.kinds import KINDS
from pipeline.representations.local_std import local_std
from pipeline.representations.patch_scattering import PatchScattering2D
from pipeline.representations.scattering import Scattering2D

IMAGE = ImageOptions(size=16, channels=1, mean=(0.5,), std=(0.25,))
TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "scattering": Scattering2D((16, 16), J=2, L=3),
    "patch_scattering": PatchScattering2D((16, 16), patches=2, J=2, L=2),
    "hog": partial(hog, bins=6, cell=4),
    "local_std": local_std,
    "dct": dct_2d,
}


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_gradient_is_that_of_finite_differences(name: str) -> None:
    transform, weights = TRANSFORMS[name], images(4096, seed=1)

    def weighted(x: Tensor) -> Tensor:
        found = transform(x).flatten()
        return (found * weights[: len(found)]).sum() if len(found) <= 4096 else found.sum()

    assert torch.autograd.gradcheck(weighted, images(1, 1, 16, 16).requires_grad_(), eps=1e-7)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_flat_images_have_no_gradient_that_is_not_finite(name: str) -> None:
    flat = torch.full((1, 1, 16, 16), 0.5, dtype=torch.float64, requires_grad=True)
    TRANSFORMS[name](flat).sum().backward()  # type: ignore[no-untyped-call]
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_values_are_the_same_with_and_without_a_gradient(name: str) -> None:
    given = images(2, 1, 16, 16, seed=2)
    with_gradient = TRANSFORMS[name](given.clone().requires_grad_())
    torch.testing.assert_close(with_gradient.detach(), TRANSFORMS[name](given))
    assert with_gradient.requires_grad


@pytest.mark.parametrize("kind", ["pixels", "scattering", "hog", "local_std", "dct"])
def test_a_gradient_reaches_images_through_a_representation(kind: str) -> None:
    representation = KINDS[kind].model_validate({"kind": kind}).build(IMAGE)
    x = images(2, 1, 16, 16).float().requires_grad_()
    representation(x).square().sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).any()
