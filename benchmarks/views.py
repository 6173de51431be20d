"""Augmentation throughput on two threads: ours, kornia's, and torchvision's sample by sample.

    python -m benchmarks.views [--size 32] [--batch 256] [--rounds 7]

Prints the median of images per second and the ratio to ours; runs alternate within one process.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import kornia.augmentation as K
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from pipeline.images.original_view import ImageOptions
from pipeline.images.random_views import AugmentationOptions, build_augmentation

Images = Any  # a batch (B, 3, H, W), or a list of images
Augment = Callable[[Images], object]
JITTER = (0.8, 0.8, 0.8, 0.2)


def kornia_views(policy: str, size: int) -> nn.Module:
    """Return Kornia's nearest equivalent, in its fastest setting that matches torchvision."""
    if policy == "cifar":
        crop = K.RandomCrop((size, size), padding=4, cropping_mode="slice")
        return nn.Sequential(crop, K.RandomHorizontalFlip())
    kernel = 2 * int(0.05 * size) + 1
    return nn.Sequential(
        K.RandomResizedCrop((size, size), cropping_mode="slice", align_corners=False),
        K.RandomHorizontalFlip(),
        K.ColorJitter(*JITTER, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=1.0, separable=False),
    )


def torchvision_views(policy: str, size: int) -> v2.Compose:
    """Return torchvision's transform of one image."""
    if policy == "cifar":
        return v2.Compose([v2.RandomCrop(size, padding=4), v2.RandomHorizontalFlip()])
    steps = [
        v2.RandomResizedCrop(size),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(*JITTER)], p=0.8),
        v2.RandomGrayscale(0.2),
        v2.GaussianBlur(2 * int(0.05 * size) + 1, (0.1, 2.0)),
    ]
    return v2.Compose(steps)


def candidates(policy: str, size: int, batch: Tensor) -> dict[str, tuple[Augment, Images]]:
    """Return each augmentation and its input; torchvision gets fewer images."""
    image = ImageOptions(size=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    ours = build_augmentation(AugmentationOptions.model_validate({"policy": policy}), image)
    one = torchvision_views(policy, size)
    few = batch[:32]
    pictures = [v2.functional.to_pil_image(sample) for sample in few]

    def each(images: Images) -> object:
        return [one(sample) for sample in images]

    return {
        "ours": (ours, batch),
        "kornia": (kornia_views(policy, size), batch),
        "torchvision, tensors": (each, few),
        "torchvision, Pillow": (each, pictures),
    }


def main() -> None:
    """Print one line for each policy and library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    batch = torch.rand(arguments.batch, 3, arguments.size, arguments.size)
    for policy in ("custom", "cifar"):
        ways = candidates(policy, arguments.size, batch)
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for name, (augment, images) in list(ways.items()) * (arguments.rounds + 1):
            start = time.perf_counter()
            augment(images)
            speeds[name].append(len(images) / (time.perf_counter() - start))
        medians = {name: statistics.median(values[1:]) for name, values in speeds.items()}
        for name, speed in medians.items():
            ratio = speed / medians["ours"]
            print(f"{policy:8} {name:22} {speed:9.0f} images/s  {ratio:6.3f} of ours")


if __name__ == "__main__":
    main()
