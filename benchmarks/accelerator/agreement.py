"""Whether a device computes the same as the CPU: representations, dependence, random views.

An error is the largest difference divided by the largest value, in float32 against float64 on the
CPU. The CPU's own error is given next to the device's. Scattering is also compared with kymatio's
on the device, in values and in speed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.accelerator.results import Options, Results
from benchmarks.timing import device_seconds
from pipeline.dependence.distance_correlation import Statistic, distance_correlation
from pipeline.images.original_view import ImageOptions
from pipeline.images.random_views import POLICIES, AugmentationOptions, build_augmentation
from pipeline.representations.kinds import KINDS
from pipeline.representations.scattering import Scattering2D

HANDCRAFTED = ("scattering", "hog", "local_std", "dct", "patch_scattering")
WIDTHS = (128, 2048)
TIPPED = 2e-3  # pixels that differ by more count as different


def measure(options: Options, results: Results) -> None:
    """Compare everything; an error is recorded, and the other comparisons still run."""
    device = options.device
    sides = (16,) if options.tiny else (32, 96, 224)
    for side in sides:
        for kind in HANDCRAFTED:
            results.attempt(f"{kind}, {side} px", partial(representation, kind, side, device))
    B = 32 if options.tiny else 256
    for statistic in get_args(Statistic):
        for D in WIDTHS:
            name = f"{statistic}, {B} x {D}"
            results.attempt(name, partial(dependence, statistic, B, D, device))
    for policy in POLICIES:
        results.attempt(f"views, {policy}", partial(views, policy, device))
    for side in sides:
        images = max(2, (2**12 if options.tiny else 2**22) // side**2)
        results.attempt(f"kymatio, {side} px", partial(kymatio, side, images, device))
    # Last, as it changes a setting of the process.
    results.attempt("after set_float32_matmul_precision", partial(after_advice, B, device))


def representation(kind: str, side: int, device: torch.device) -> dict[str, float]:
    """Return the errors of a representation: on the CPU, on the device, and within autocast."""
    image = ImageOptions(size=side, channels=3, mean=(0.48,) * 3, std=(0.25,) * 3)
    network = KINDS[kind].model_validate({"kind": kind}).build(image)
    images = (random_images(4, side) - 0.48) / 0.25
    exact, on_cpu = network(images.double()), network(images)
    network = network.to(device)
    on_device = network(images.to(device)).cpu()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        cast = network(images.to(device)).cpu()
    return {
        "cpu": error(on_cpu, exact),
        "device": error(on_device, exact),
        "device, in bf16 autocast": error(cast, exact),
        "device against cpu": error(on_device, on_cpu),
    }


def dependence(statistic: Statistic, B: int, D: int, device: torch.device) -> dict[str, Any]:
    """Return the errors of a statistic and of its gradient, and their time on the device."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(B, D, generator=random)
    y = x[:, :64] @ torch.randn(64, D, generator=random) + torch.randn(B, D, generator=random)

    def value_and_gradient(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        value = distance_correlation(x, y, statistic=statistic)
        (gradient,) = torch.autograd.grad(value, x)
        return value.detach().cpu(), gradient.cpu()

    exact = value_and_gradient(x.double(), y.double())
    on_cpu = value_and_gradient(x, y)
    far = x.to(device), y.to(device)
    on_device = value_and_gradient(*far)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        cast = value_and_gradient(*far)
    found: dict[str, Any] = {}
    for what, pair in (("cpu", on_cpu), ("device", on_device), ("device, in autocast", cast)):
        found[f"{what}, value"], found[f"{what}, gradient"] = map(error, pair, exact)
    found["milliseconds, both"] = 1e3 * device_seconds(partial(value_and_gradient, *far), device)
    return found


def views(policy: str, device: torch.device) -> dict[str, float]:
    """Return how far views with equal draws differ, and images per second on the device."""
    side, count = 32, 256
    image = ImageOptions(size=side, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    augment = build_augmentation(AugmentationOptions.model_validate({"policy": policy}), image)
    images = random_images(count, side)
    torch.manual_seed(0)
    expected = augment(images)
    far = images.to(device)
    augment = augment.to(device)
    torch.manual_seed(0)
    found = augment(far)
    difference = (found.cpu() - expected).abs()
    seconds = device_seconds(lambda: augment(far), device, repeats=3)
    return {
        "largest difference": difference.max().item(),
        f"share above {TIPPED:g}": (difference > TIPPED).double().mean().item(),
        "on the device": found.device.type == device.type,
        "images a second": count / seconds,
    }


def kymatio(side: int, count: int, device: torch.device) -> dict[str, float]:
    """Return how our scattering compares with kymatio's, both on the device."""
    # Kymatio's public import fails with SciPy 1.17; this module of it does not.
    from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

    images = random_images(count, side).to(device)
    theirs: Callable[[Tensor], Tensor] = ScatteringTorch2D(2, (side, side), L=8).to(device)
    ours = Scattering2D((side, side), J=2, L=8)
    with torch.inference_mode():
        difference = error(ours(images).cpu(), theirs(images).cpu())
        mine = device_seconds(lambda: ours(images), device)
        reference = device_seconds(lambda: theirs(images), device)
    return {
        "largest difference": difference,
        "images a second": count / mine,
        "kymatio, images a second": count / reference,
        "times as fast": reference / mine,
    }


def after_advice(B: int, device: torch.device) -> dict[str, Any]:
    """Return the errors of dCor after the call that Lightning recommends on such devices."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return dependence("dcor", B, WIDTHS[0], device)
    finally:
        torch.set_float32_matmul_precision(before)


def error(found: Tensor, exact: Tensor) -> float:
    """Return the largest difference divided by the largest value."""
    return float((found.double() - exact.double()).abs().max() / exact.double().abs().max())


def random_images(count: int, side: int) -> Tensor:
    """Return smooth random images (count, 3, side, side) in [0, 1]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=side, mode="bicubic")
    return smooth.clamp(0, 1)
