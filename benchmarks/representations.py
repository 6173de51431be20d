"""Time our scattering against Kymatio's, and each stored hand-crafted representation by itself.

    python -m benchmarks.representations [--threads N] [--device cuda] [--sides 32 96 224]

Both libraries run in this process, in turns, with the same number of threads, so a busy machine
affects both alike. A ratio is Kymatio's time divided by ours, as the median over rounds. The last
column is the largest error relative to the largest coefficient.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from pipeline.images.original_view import ImageOptions
from pipeline.representations.kinds import KINDS
from pipeline.representations.scattering import Scattering2D

ROUNDS = 7
# So that the work is about equal at each size.
PIXELS_PER_BATCH = 16 * 32 * 32


def seconds(function: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Return the time of one call, including the device's work."""
    start = time.perf_counter()
    result = function(images)
    if result.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare_scattering(side: int, device: torch.device) -> None:
    """Print one row: Kymatio's and our images per second at 3 x side x side, J = 2, L = 8."""
    # Kymatio's public import fails with SciPy 1.17; the import of this module does not.
    from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

    count = batch_size(side, device)
    images = torch.randn(count, 3, side, side, device=device)
    reference: Any = ScatteringTorch2D(2, (side, side), L=8).to(device)
    ours = Scattering2D((side, side), J=2, L=8)
    expected, actual = reference(images), ours(images)
    error = float((actual - expected).abs().max() / expected.abs().max())
    times = [(seconds(reference, images), seconds(ours, images)) for _ in range(ROUNDS)]
    rates = [count / median(column) for column in zip(*times, strict=True)]
    ratio = median(theirs / mine for theirs, mine in times)
    print(f"{side:>5} {count:>6} {rates[0]:>14.1f} {rates[1]:>12.1f} {ratio:>7.2f} {error:>9.0e}")


def time_kinds(side: int, device: torch.device) -> None:
    """Print images per second of each stored representation with its default options."""
    image = ImageOptions(size=side, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    count = batch_size(side, device)
    images = torch.randn(count, 3, side, side, device=device)
    for kind in ("hog", "local_std", "dct", "patch_scattering"):
        representation = KINDS[kind].model_validate({"kind": kind}).build(image).to(device)
        dimensions = representation(images).shape[1]
        rate = count / median(seconds(representation, images) for _ in range(ROUNDS))
        print(f"{side:>5} {count:>6} {kind:>18} {dimensions:>9} {rate:>12.1f}")


def batch_size(side: int, device: torch.device) -> int:
    """Return the number of images to time at once: more if they are small, or on a GPU."""
    per_batch = PIXELS_PER_BATCH * (16 if device.type == "cuda" else 1)
    return max(1, per_batch // side**2)


def main() -> None:
    """Read the arguments and print both tables."""
    parser = argparse.ArgumentParser(description="Time the hand-crafted representations.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 96, 224])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    with torch.inference_mode():
        print(f"scattering, J = 2, L = 8, order 2; {arguments.threads} threads on {device}")
        print(" side  batch  kymatio img/s  ours img/s   ratio     error")
        for side in arguments.sides:
            compare_scattering(side, device)
        print("\n side  batch               kind dimensions        img/s")
        for side in arguments.sides:
            time_kinds(side, device)


if __name__ == "__main__":
    main()
