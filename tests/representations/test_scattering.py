"""Scattering against Kymatio and against its definition, and its invariances."""

import copy
import math
from functools import cache
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.errors import ConfigError
from pipeline.images.original_view import ImageOptions
from pipeline.representations import scattering as module
from pipeline.representations.scattering import Scattering2D, ScatteringOptions
from pipeline.representations.scattering_filters import FilterBank, morlet_bank, padded_side

SHAPES = [
    ((16, 20), 2, 8, 2),
    ((8, 8), 3, 2, 2),
    ((9, 13), 2, 3, 1),
    ((9, 17), 3, 3, 2),
    ((16, 33), 1, 8, 2),
    ((8, 9), 2, 12, 2),
]
SMALL_IMAGE = ImageOptions(size=16, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)


@cache
def kymatio(shape: tuple[int, int], J: int, L: int, order: int) -> Any:
    frontend = pytest.importorskip(
        "kymatio.scattering2d.frontend.torch_frontend",
        reason="kymatio is not installed; tests/golden/kymatio.npz stands in for it",
    )
    return frontend.ScatteringTorch2D(J, shape, L=L, max_order=order)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest error as a share of the largest value."""
    return float((actual - expected).abs().max() / expected.abs().max())


def random_images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize(("shape", "J", "L", "order"), SHAPES)
def test_agrees_with_kymatio_in_single_precision(
    shape: tuple[int, int], J: int, L: int, order: int
) -> None:
    images = random_images(2, 3, *shape)
    expected = kymatio(shape, J, L, order).float()(images)
    actual = Scattering2D(shape, J=J, L=L, order=order)(images)
    assert actual.dtype == torch.float32
    assert actual.shape == expected.shape
    assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize(("shape", "J", "L", "order"), SHAPES)
def test_agrees_with_kymatio_in_double_precision(
    shape: tuple[int, int], J: int, L: int, order: int
) -> None:
    reference = kymatio(shape, J, L, order).double()
    images = random_images(2, *shape, dtype=torch.float64)
    expected = reference(images)
    ours = Scattering2D(shape, J=J, L=L, order=order)(images)
    assert relative_error(ours, expected) < 1e-6  # Kymatio's filters are rounded to complex64

    wavelets = np.stack([wavelet["levels"][0] for wavelet in reference.psi]).astype(np.float64)
    low_pass = reference.phi["levels"][0].astype(np.float64)
    bank = FilterBank(wavelets.reshape(J, L, *low_pass.shape), low_pass)
    theirs = Scattering2D(shape, J=J, L=L, order=order, bank=bank)(images)
    assert relative_error(theirs, expected) < 1e-10


def direct_scattering(image: np.ndarray[Any, Any], J: int, L: int) -> np.ndarray[Any, Any]:
    """Return the coefficients by definition: nothing is subsampled before the very end."""
    (H, W), step = image.shape, 2**J
    M, N = padded_side(H, J), padded_side(W, J)
    before, after = ((M - H) // 2, (N - W) // 2), ((M - H + 1) // 2, (N - W + 1) // 2)
    padded = np.pad(image, list(zip(before, after, strict=True)), mode="reflect")
    bank = morlet_bank((M, N), J, L)

    def average(maps: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        smooth = np.fft.ifft2(np.fft.fft2(maps) * bank.low_pass).real
        return np.asarray(smooth[step:-step:step, step:-step:step])

    def modulus(maps: np.ndarray[Any, Any], j: int, angle: int) -> np.ndarray[Any, Any]:
        return np.abs(np.fft.ifft2(np.fft.fft2(maps) * bank.wavelets[j, angle]))

    zeroth, first, second = [average(padded)], [], []
    for j1 in range(J):
        for angle1 in range(L):
            envelope = modulus(padded, j1, angle1)
            first.append(average(envelope))
            for j2 in range(j1 + 1, J):
                second += [average(modulus(envelope, j2, angle2)) for angle2 in range(L)]
    return np.stack(zeroth + first + second)


def test_agrees_with_its_definition_up_to_the_aliasing_of_subsampled_moduli() -> None:
    image = random_images(24, 20, dtype=torch.float64)
    expected = torch.from_numpy(direct_scattering(image.numpy(), J=3, L=4))
    actual = Scattering2D((24, 20), J=3, L=4)(image)
    assert actual.shape == expected.shape
    assert relative_error(actual[0], expected[0]) < 1e-12  # nothing is subsampled early here
    assert relative_error(actual[1:5], expected[1:5]) < 1e-12
    # A modulus has no band limit: subsampling it by 2^j adds a little to the other paths.
    assert relative_error(actual[5:], expected[5:]) < 0.05
    # A permuted channel would differ by about as much as the channels do.
    errors = (actual[1:, None] - expected[None, 1:]).flatten(2).norm(dim=2)
    assert torch.equal(errors.argmin(dim=1), torch.arange(len(expected) - 1))


@given(
    side=st.integers(8, 40),
    other=st.integers(8, 40),
    J=st.integers(1, 3),
    L=st.integers(1, 9),
    order=st.sampled_from([1, 2]),
)
@settings(max_examples=12, deadline=None)
def test_gives_one_map_for_each_path_of_any_shape(
    side: int, other: int, J: int, L: int, order: int
) -> None:
    transform = Scattering2D((side, other), J=J, L=L, order=order)
    paths = 1 + J * L + (L * L * math.comb(J, 2) if order == 2 else 0)
    output = transform(random_images(1, side, other))
    assert output.shape == (1, paths, side >> J, other >> J)
    assert bool(output.isfinite().all())
    assert float(output[:, 1:].min()) > -1e-6  # averages of moduli


def test_order_one_is_the_beginning_of_order_two() -> None:
    images = random_images(2, 16, 16)
    first = Scattering2D((16, 16), J=2, L=4, order=1)(images)
    second = Scattering2D((16, 16), J=2, L=4, order=2)(images)
    assert torch.equal(first, second[:, : first.shape[1]])


@pytest.mark.parametrize("value", [-4.0, 0.0, 0.1, 1e3])
def test_a_constant_image_has_its_value_in_order_zero_and_nothing_else(value: float) -> None:
    image = torch.full((1, 16, 24), value, dtype=torch.float64)
    output = Scattering2D((16, 24), L=4)(image)
    # With the constant 3.1415, the low-pass sums to 1 only up to 3e-5.
    assert torch.allclose(output[:, 0], image[:, :4, :6], rtol=1e-3)
    assert float(output[:, 1:].abs().max()) <= 1e-12 * abs(value)


def test_scales_with_the_image_and_ignores_its_sign_above_order_zero() -> None:
    images = random_images(2, 16, 16, dtype=torch.float64)
    transform = Scattering2D((16, 16))
    output, scaled = transform(images), transform(-3 * images)
    assert torch.allclose(scaled[:, 0], -3 * output[:, 0])
    assert torch.allclose(scaled[:, 1:], 3 * output[:, 1:])


def test_moves_with_the_image_by_whole_samples() -> None:
    blob = torch.zeros(32, 32, dtype=torch.float64)
    blob[12:18, 10:19] = random_images(6, 9, dtype=torch.float64)
    transform = Scattering2D((32, 32), J=2, L=4)
    moved = torch.roll(blob, (4, -4), dims=(0, 1))
    # The padding of both is empty, so this translates the whole torus. Samples that come in at
    # the border are not compared.
    expected = transform(blob)[..., :-1, 1:]
    assert relative_error(transform(moved)[..., 1:, :-1], expected) < 1e-12


def test_turning_the_image_turns_the_orientations() -> None:
    image = random_images(16, 16, dtype=torch.float64)
    image = torch.nn.functional.pad(image[None], (8, 9, 8, 9))[0]  # odd: a centre to turn about
    transform = Scattering2D((33, 33), J=1, L=8)
    total = transform(image)[1:].sum(dim=(1, 2))
    turned = transform(torch.rot90(image))[1:].sum(dim=(1, 2))
    assert torch.allclose(turned, total.roll(4), rtol=0.02)


def test_an_image_gives_the_same_vector_in_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(3, 2, 16, 16, dtype=torch.float64)
    transform = Scattering2D((16, 16), L=2)
    together = transform(images)
    alone = torch.cat([transform(image[None]) for image in images])
    assert relative_error(alone, together) < 1e-14
    for block_bytes in (1, 3_000, 20_000):
        monkeypatch.setattr(module, "CPU_BLOCK_BYTES", block_bytes)
        assert relative_error(transform(images), together) < 1e-14


def test_one_transform_serves_both_precisions_and_can_be_copied() -> None:
    representation = ScatteringOptions().build(SMALL_IMAGE)
    images = random_images(2, 3, 16, 16, dtype=torch.float64)
    double, single, half = (
        representation(images.to(t)) for t in (torch.float64, torch.float32, torch.float16)
    )
    assert (double.dtype, single.dtype, half.dtype) == (torch.float64, torch.float32, torch.float32)
    assert double.shape == (2, 3 * 81 * 4 * 4)
    assert relative_error(single.double(), double) < 1e-6
    assert relative_error(half.double(), double) < 2e-3
    assert torch.equal(copy.deepcopy(representation.half())(images), double)


def test_leaves_no_trace_in_checkpoints() -> None:
    representation = ScatteringOptions().build(SMALL_IMAGE)
    assert not representation(random_images(1, 3, 16, 16)).requires_grad
    assert not representation.state_dict()
    assert not list(representation.parameters())


def test_does_not_touch_its_input() -> None:
    images = random_images(2, 16, 16)
    before = images.clone()
    Scattering2D((16, 16))(images)
    assert torch.equal(images, before)


def test_takes_images_that_are_not_contiguous() -> None:
    images = random_images(16, 20, 3)
    transform = Scattering2D((16, 20), L=4)
    assert torch.equal(
        transform(images.permute(2, 0, 1)), transform(images.permute(2, 0, 1).contiguous())
    )


@pytest.mark.parametrize("order", [1, 2])
def test_identity_tells_parameters_and_images_apart(order: Literal[1, 2]) -> None:
    options = ScatteringOptions(J=1, L=4, order=order)
    identity = options.build(SMALL_IMAGE).identity()
    assert identity == {
        "kind": "scattering",
        "J": 1,
        "L": 4,
        "order": order,
        "implementation": 1,
        "image": {
            "size": 16,
            "resize": None,
            "channels": 3,
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
        },
    }
    other = ImageOptions(size=16, resize=20, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert options.build(other).identity() != identity


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"2\^J = 32 .* 16 .* J of at most 4"):
        ScatteringOptions(J=5).build(SMALL_IMAGE)
    with pytest.raises(ConfigError, match=r"found 64 x 4"):
        Scattering2D((64, 4), J=3)
    with pytest.raises(ValueError, match=r"\(16, 16\); found \(16, 12\)"):
        Scattering2D((16, 16))(random_images(1, 16, 12))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_coefficients() -> None:
    images = random_images(3, 3, 32, 32)
    transform = Scattering2D((32, 32))
    assert relative_error(transform(images.cuda()).cpu(), transform(images)) < 1e-5


@pytest.mark.parametrize("options", [{"order": 3}, {"order": 0}, {"J": 0}, {"L": 0}])
def test_what_a_transform_does_not_have_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="an order of 1 or 2"):
        Scattering2D((16, 16), **options)


def test_integers_and_16_bits_are_refused() -> None:
    for dtype in (torch.int64, torch.float16):
        with pytest.raises(ValueError, match="float32 or float64"):
            Scattering2D((16, 16))(torch.zeros(1, 16, 16, dtype=dtype))


def test_a_logarithm_leaves_the_mean_and_orders_the_rest_as_before() -> None:
    image = ImageOptions(size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = ScatteringOptions(J=2).build(image)
    logarithm = ScatteringOptions(J=2, log=True).build(image)
    before, after = (r(images).view(3, 3, -1, 4, 4) for r in (plain, logarithm))
    assert torch.equal(after[:, :, 0], before[:, :, 0])
    torch.testing.assert_close(after[:, :, 1:], torch.log(before[:, :, 1:] + 1e-3))
    assert plain.identity() != logarithm.identity()
    assert "log" not in plain.identity()  # so that stored features keep their fingerprints
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(logarithm(images).sum(), images)
    assert gradient.isfinite().all()
