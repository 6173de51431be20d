"""Random views: each operation against torchvision on one image, then statistics of its draws."""

import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from pipeline.base.seeds import Numbers, numbers_of
from pipeline.images import view_operations
from pipeline.images.drawn_operations import (
    AutoAugmentDraws,
    Draws,
    RandAugmentDraws,
    apply_operations,
)
from pipeline.images.original_view import ImageOptions
from pipeline.images.random_views import (
    Augmentation,
    AugmentationOptions,
    DrawnView,
    build_augmentation,
)
from pipeline.images.view_operations import (
    RATIO,
    adjust_colours,
    crop_and_resize,
    drawn_boxes,
    gaussian_blur,
    padded_crop,
)
from pipeline.images.view_options import ViewForm

POLICIES = ["custom", "cifar20", "cifar", "randaugment", "autoaugment"]
BATCHED = POLICIES[:3]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Run small tensors on one thread: on busy cores, waiting for other threads takes longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def augmentation(policy: str, size: int = 32, channels: int = 3, **more: Any) -> Augmentation:
    image = ImageOptions(
        size=size, channels=3 if channels == 3 else 1, mean=(0.5,) * channels, std=(0.5,) * channels
    )
    return build_augmentation(AugmentationOptions.model_validate({"policy": policy} | more), image)


def numbers(rows: int, count: int = 22) -> Numbers:
    """Return numbers for draws of each of some rows."""
    return numbers_of(range(rows), count, 0)


def near(share: float, p: float, draws: float) -> bool:
    """Tell whether a share of draws is within 5 standard errors of the probability."""
    return abs(share - p) <= 5 * math.sqrt(p * (1 - p) / draws)


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize("size", [8, 32, 61])
def test_a_resized_crop_is_torchvisions(size: int, cubic: bool) -> None:
    torch.manual_seed(0)
    images = torch.rand(40, 3, size, size)
    boxes = torch.from_numpy(drawn_boxes(numbers(40), 0.08, height=size, width=size))
    ours = crop_and_resize(images, boxes, cubic=cubic)
    mode = tv.InterpolationMode.BICUBIC if cubic else tv.InterpolationMode.BILINEAR
    for image, box, view in zip(images, boxes, ours, strict=True):
        theirs = tv.resized_crop(image, *box.tolist(), [size, size], mode, antialias=True)
        theirs = theirs.clamp(0, 1)
        torch.testing.assert_close(view, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cubic", [False, True])
def test_a_crop_that_shrinks_is_antialiased_as_torchvisions(cubic: bool) -> None:
    torch.manual_seed(0)
    images = torch.rand(40, 3, 48, 48)
    boxes = torch.from_numpy(drawn_boxes(numbers(40), 0.01, height=48, width=48, max_scale=0.8))
    ours = crop_and_resize(images, boxes, size=14, cubic=cubic)
    mode = tv.InterpolationMode.BICUBIC if cubic else tv.InterpolationMode.BILINEAR
    for image, box, view in zip(images, boxes, ours, strict=True):
        theirs = tv.resized_crop(image, *box.tolist(), [14, 14], mode, antialias=True)
        torch.testing.assert_close(view, theirs.clamp(0, 1), rtol=0, atol=1e-5)


def test_a_padded_crop_is_torchvisions_to_the_bit() -> None:
    torch.manual_seed(0)
    images = torch.rand(40, 3, 12, 12)
    corners = torch.randint(0, 9, (40, 2))
    ours = padded_crop(images, corners, 4)
    for image, (top, left), view in zip(images, corners.tolist(), ours, strict=True):
        assert torch.equal(view, tv.crop(tv.pad(image, [4]), top, left, 12, 12))


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_steps_are_torchvisions_in_the_order_given(channels: int) -> None:
    torch.manual_seed(0)
    images = torch.rand(60, channels, 9, 9)
    images[:4] = images[:4, :1]  # greys have no hue
    images[4] = 0
    factors = torch.rand(60, 4) * 2
    factors[:, 3] -= 1
    factors[:, 3] /= 2
    order = torch.rand(60, 4).argsort(dim=1)
    order[-5:] = -1
    steps = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    ours = adjust_colours(images, factors, order)
    for image, factor, places, view in zip(images, factors, order, ours, strict=True):
        theirs = image
        for place in places.tolist():
            if place == 0 or (place > 0 and channels == 3) or place == 1:
                theirs = steps[place](theirs, factor[place].item())
        torch.testing.assert_close(view, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kernel_size", [1, 3, 9])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_blur_is_torchvisions(kernel_size: int, channels: int) -> None:
    torch.manual_seed(0)
    images, sigmas = torch.rand(20, channels, 24, 24), torch.rand(20) * 1.9 + 0.1
    ours = gaussian_blur(images, sigmas, kernel_size)
    for image, sigma, view in zip(images, sigmas.tolist(), ours, strict=True):
        theirs = tv.gaussian_blur(image, [kernel_size] * 2, [sigma] * 2)
        torch.testing.assert_close(view, theirs, rtol=0, atol=1e-5)


SHAPES = [(32, 32), (375, 500), (500, 375), (40, 400), (3, 2)]


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_boxes_have_torchvisions_distribution_and_stay_inside(height: int, width: int) -> None:
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    ours = drawn_boxes(numbers(100_000), 0.08, height=height, width=width)
    blank = torch.empty(1, height, width)
    crop: Any = RandomResizedCrop
    theirs = np.array([crop.get_params(blank, (0.08, 1.0), RATIO) for _ in range(4000)])
    assert ours.min() >= 0
    assert (ours[:, 2:] >= 1).all()
    assert (ours[:, :2] + ours[:, 2:] <= (height, width)).all()
    for figure in (np.s_[:, 0], np.s_[:, 1], np.s_[:, 2], np.s_[:, 3]):
        assert kstest(ours[figure], theirs[figure]).pvalue > 1e-6
    assert kstest(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-6  # area
    assert kstest(ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]).pvalue > 1e-6  # ratio


def test_boxes_keep_to_the_smallest_area() -> None:
    torch.manual_seed(0)
    boxes = drawn_boxes(numbers(2000), 0.5, height=96, width=96)
    area = (boxes[:, 2] * boxes[:, 3]) / 96**2
    assert area.min() > 0.48  # sides are rounded to pixels
    assert area.max() <= 1
    assert (drawn_boxes(numbers(5), 1.0, height=7, width=7)[:, 2:] == 7).all()


def test_areas_of_local_boxes_are_uniform_in_their_scale() -> None:
    form, image = ViewForm(96, (0.05, 0.3)), ImageOptions(size=224, mean=(0.5,) * 3, std=(0.5,) * 3)
    for policy in ("custom", "cifar", "randaugment"):
        augment = build_augmentation(
            AugmentationOptions.model_validate({"policy": policy}), image, form
        )
        boxes = augment.boxes(numbers(20_000, augment.numbers), 1500, 1000)
        area = (boxes[:, 2] * boxes[:, 3]) / (1500 * 1000)
        assert area.min() > 0.0499  # sides are rounded to pixels
        assert area.max() < 0.3005
        assert kstest(area, "uniform", (0.05, 0.25)).pvalue > 1e-4


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 20, 32])
def test_views_are_float_images_of_the_same_shape(policy: str, channels: int, size: int) -> None:
    torch.manual_seed(0)
    augment = augmentation(policy, size, channels)
    pixels = torch.randint(0, 256, (12, channels, size, size), dtype=torch.uint8)
    for images in (pixels, pixels.float() / 255, pixels[:1]):
        found = augment(images)
        assert found.shape == images.shape
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        assert found.min() >= 0
        assert found.max() <= 1
        assert len(found) == 1 or found.max() > 0.3  # in [0, 1], not in [0, 1/255]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_global_seed_decides_and_bytes_equal_floats(policy: str) -> None:
    augment = augmentation(policy)
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    torch.manual_seed(3)
    first, second = augment(images), augment(images)
    torch.manual_seed(3)
    assert torch.equal(augment(images.float() / 255), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_view_follows_from_its_numbers_whatever_stands_beside_it(policy: str) -> None:
    augment = augmentation(policy)
    images = torch.rand(16, 3, 32, 32)
    drawn = numbers(16, augment.numbers)
    every = augment(images, DrawnView(drawn))
    some = [9, 2, 13]
    assert torch.allclose(augment(images[some], DrawnView(drawn[some])), every[some], atol=1e-6)
    assert not torch.allclose(
        augment(images, DrawnView(numbers_of(range(16), augment.numbers, 1))), every
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_every_sample_has_a_draw_of_its_own(policy: str) -> None:
    torch.manual_seed(0)
    one = torch.rand(1, 3, 32, 32)
    found = augmentation(policy)(one.expand(64, -1, -1, -1)).flatten(1)
    same = torch.cdist(found, found) < 1e-4
    pairs = (same.sum() - 64) / (64 * 63)
    # The padded crop has 162 outcomes, so some pairs coincide; weak AutoAugment draws may too.
    assert pairs < 0.03


def test_the_input_is_left_alone() -> None:
    images = torch.rand(8, 3, 16, 16)
    copy = images.clone()
    for policy in BATCHED:
        augmentation(policy, 16)(images)
    assert torch.equal(images, copy)


@pytest.mark.parametrize("policy", BATCHED)
def test_half_of_the_views_are_flipped(policy: str) -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0.3, 0.7, 32).expand(1000, 3, 32, 32)
    found = augmentation(policy)(ramp)
    inner = found[..., 8:24]
    flipped = inner[..., :8].mean(dim=(1, 2, 3)) > inner[..., 8:].mean(dim=(1, 2, 3))
    assert near(flipped.double().mean().item(), 0.5, 1000)
    assert not torch.equal(flipped[:500], flipped[500:])
    never = augmentation(policy, flip_p=0.0)(ramp)[..., 8:24]
    assert (never[..., :8].mean(dim=(1, 2, 3)) <= never[..., 8:].mean(dim=(1, 2, 3)) + 1e-6).all()


def test_the_padded_crop_takes_every_shift_equally_often() -> None:
    torch.manual_seed(0)
    images = torch.zeros(8100, 1, 12, 12)
    images[:, :, 6, 6] = 1
    found = augmentation("cifar", 12, 1, flip_p=0.0)(images)
    rows, columns = found.sum(dim=(1, 3)).argmax(dim=1), found.sum(dim=(1, 2)).argmax(dim=1)
    counts = torch.bincount((rows - 2) * 9 + columns - 2, minlength=81)
    assert len(counts) == 81
    chi_squared = ((counts - 100) ** 2 / 100).sum()
    assert chi_squared < 160  # 80 degrees of freedom: one in a million


@pytest.mark.parametrize(("policy", "grey_p"), [("custom", 0.2), ("cifar20", 0.1)])
def test_jitter_and_grey_happen_at_their_rates(policy: str, grey_p: float) -> None:
    torch.manual_seed(0)
    count = 4000
    colour = torch.tensor([0.6, 0.5, 0.4])
    images = colour[:, None, None].expand(count, 3, 8, 8)
    found = augmentation(policy, 8)(images).mean(dim=(2, 3))
    grey = (found[:, 0] - found[:, 2]).abs() < 1e-4
    untouched = (found - colour).abs().amax(dim=1) < 1e-4
    luma = (found - 0.5185).abs().amax(dim=1) < 1e-3
    assert near((grey).double().mean().item(), grey_p, count)
    # Greys without jitter, and images with neither, both depend on the jitter's rate, .8.
    assert near((grey & luma).double().mean().item(), grey_p * 0.2, count * 0.9)
    assert near(untouched.double().mean().item(), (1 - grey_p) * 0.2, count)
    none = augmentation(policy, 8, jitter=0.0, grey_p=0.0)(images).mean(dim=(2, 3))
    torch.testing.assert_close(none, colour.expand(count, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("policy", "strength", "hue"), [("custom", 0.8, 0.2), ("cifar20", 0.4, 0.1)]
)
def test_factors_fill_their_ranges_and_orders_are_drawn_per_sample(
    policy: str, strength: float, hue: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
        seen.append((factors, order))
        return adjust_colours(images, factors, order)

    monkeypatch.setattr(view_operations, "adjust_colours", spy)
    torch.manual_seed(0)
    augmentation(policy, 8)(torch.rand(5000, 3, 8, 8))
    factors, order = seen[0]
    low = torch.tensor([1 - strength] * 3 + [-hue])
    high = torch.tensor([1 + strength] * 3 + [hue])
    uniform = (factors - low) / (high - low)
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    for quantile in (0.1, 0.5, 0.9):
        for below in (uniform <= quantile).double().mean(dim=0).tolist():
            assert near(below, quantile, 5000)
    chosen = order[order[:, 0] >= 0]
    assert near(len(chosen) / 5000, 0.8, 5000)
    places = torch.tensor([64, 16, 4, 1])
    counts = torch.bincount(chosen @ places, minlength=256)
    counts = counts[counts > 0]
    assert len(counts) == 24
    expected = len(chosen) / 24
    assert ((counts - expected) ** 2 / expected).sum() < 76  # 23 degrees: one in ten million


def test_every_view_of_custom_is_blurred_and_each_differently() -> None:
    torch.manual_seed(0)
    dot = torch.zeros(500, 3, 96, 96)
    dot[:, :, 48, 48] = 1
    augment = augmentation("custom", 96, min_scale=1.0, flip_p=0.0, jitter=0.0, grey_p=0.0)
    peaks = augment(dot)[:, 0, 48, 48]
    widest = gaussian_blur(dot[:1], torch.tensor([2.0]), 9)[0, 0, 48, 48]
    assert peaks.min() >= widest - 1e-6
    assert peaks.max() > 0.999  # a deviation of .1 pixels leaves a dot alone
    assert near((peaks < 0.999).double().mean().item(), 1 - 0.166 / 1.9, 500)
    middle = gaussian_blur(dot[:1], torch.tensor([1.05]), 9)[0, 0, 48, 48]
    assert near((peaks < middle).double().mean().item(), 0.5, 500)


def test_grey_images_are_jittered_in_brightness_and_contrast_only() -> None:
    torch.manual_seed(0)
    images = torch.full((2000, 1, 8, 8), 0.5)  # even, so that contrast does nothing
    found = augmentation("custom", 8, 1)(images)[:, 0, 4, 4]
    assert near((found == 0.5).double().mean().item(), 0.2, 2000)
    changed = found[found != 0.5]
    assert changed.min() >= 0.5 * 0.2 - 1e-6
    assert changed.max() <= 0.5 * 1.8 + 1e-6
    assert changed.std() > 0.15


DRAWS = {"randaugment": RandAugmentDraws, "autoaugment": AutoAugmentDraws}


@pytest.mark.parametrize("policy", DRAWS)
def test_every_operation_is_torchvisions(policy: str) -> None:
    from torchvision.transforms import v2

    reference: Any = v2.RandAugment()
    draws = DRAWS[policy](32)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    for number, (name, magnitude) in enumerate(draws.variants):
        found = apply_operations(images, draws.variants, torch.full((4, 1), number))
        for image, ours in zip(images, found, strict=True):
            theirs = reference._apply_image_or_video_transform(
                image, name, magnitude, tv.InterpolationMode.NEAREST, {torch.Tensor: None}
            )
            if name == "Sharpness":  # sums in another order: some values are truncated elsewhere
                assert (ours.int() - theirs.int()).abs().max() <= 1
            else:
                assert torch.equal(ours, theirs), (name, magnitude)


def test_each_sample_has_its_own_operations_in_order() -> None:
    variants = [("Identity", 0.0), ("Invert", 0.0), ("TranslateX", 3.0), ("Solarize", 0.5)]
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    chosen = torch.tensor([[0, 0], [1, 2], [2, 1]])
    same, dark_edge, bright_edge = apply_operations(images, variants, chosen)
    assert torch.equal(same, images[0])
    assert torch.equal(dark_edge[..., :3], torch.zeros(1, 8, 3, dtype=torch.uint8))
    assert torch.equal(dark_edge[..., 3:], 255 - images[1][..., :-3])
    assert torch.equal(bright_edge[..., :3], torch.full((1, 8, 3), 255, dtype=torch.uint8))


def test_operations_are_drawn_as_often_as_torchvision_draws_them() -> None:
    torch.manual_seed(0)
    draws: Draws = RandAugmentDraws(32)
    counts = torch.bincount(draws(numbers(20_000, draws.count)).flatten(), minlength=28)
    assert len(draws.variants) == 28  # 14 operations with both signs
    assert ((counts / 80_000 - 1 / 28).abs() < 0.004).all()
    draws = AutoAugmentDraws(32)
    names = [name for name, _ in draws.variants]
    first = draws(numbers(50_000, draws.count))[:, 0]
    # Pairs begin with Equalize in 8 of 25 cases, with these probabilities.
    share = sum(names[number] == "Equalize" for number in first.tolist()) / 50_000
    assert share == pytest.approx((0.8 + 0.4 + 0.4 + 0.6 + 0.0 + 0.4 + 0.8) / 25, abs=0.01)


def test_autocast_around_it_changes_nothing_and_no_gradient_flows() -> None:
    augment = augmentation("custom")
    images = torch.rand(8, 3, 32, 32, requires_grad=True)
    torch.manual_seed(1)
    plain = augment(images)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = augment(images)
    assert torch.equal(plain, inside)
    assert not plain.requires_grad


def test_it_survives_pickling_for_a_workers_start() -> None:
    for policy in POLICIES:
        augment = augmentation(policy)
        copy = pickle.loads(pickle.dumps(augment))  # noqa: S301 (ours)
        images = torch.rand(4, 3, 32, 32)
        torch.manual_seed(2)
        first = augment(images)
        torch.manual_seed(2)
        assert torch.equal(copy(images), first)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, 32, 32\); found \(2, 1, 32, 32\)"):
        augmentation("cifar")(torch.rand(2, 1, 32, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "cifar", "min_scale": 0.5}, "no resized crop"),
        ({"policy": "randaugment", "jitter": 0.5}, "no colour jitter"),
        ({"policy": "cifar", "grey_p": 0.5}, "no colour jitter"),
        ({"policy": "custom", "flip_p": 1.5}, "less than or equal to 1"),
        ({"policy": "simclr"}, "custom"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentationOptions.model_validate(options)


@pytest.mark.gpu
@pytest.mark.parametrize("policy", POLICIES)
def test_the_device_gives_the_views_of_the_cpu(policy: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images = torch.rand(32, 3, 32, 32)
    augment = augmentation(policy)
    torch.manual_seed(0)
    on_cpu = augment(images)
    torch.manual_seed(0)
    on_device = augment.cuda()(images.cuda())
    assert on_device.is_cuda
    tolerance = 2e-3 if policy in BATCHED else 0.05  # TF32; 8-bit values may round differently
    assert ((on_device.cpu() - on_cpu).abs() > tolerance).double().mean() < 0.01
