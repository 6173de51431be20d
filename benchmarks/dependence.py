"""Cost of distance correlation relative to its distance matrices, forward and backward.

    python -m benchmarks.dependence [--device cuda] [--threads 2]

Each row is one batch size B and width D. "distances" computes two distance matrices and
backpropagates through them; every statistic also computes itself. Ratios compare runs that
alternate within one process; the goal is at most 1.3 at B = 1024, D = 8192.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.dependence.distance_correlation import Statistic, distance_correlation
from pipeline.dependence.distances import pairwise_distances

SIZES = ((256, 512), (256, 8192), (512, 2048), (1024, 2048), (1024, 8192))
STATISTICS: tuple[Statistic, ...] = ("dcor", "dcor_squared", "dcor_squared_unbiased")
ROUNDS = 7


def main() -> None:
    """Print a table of milliseconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    header = ["B", "D", "distances", "torch.cdist", *STATISTICS]
    print(" ".join(f"{name:>21}" for name in header))
    for B, D in SIZES:
        print(" ".join(f"{cell:>21}" for cell in row(B, D, torch.device(arguments.device))))


def row(B: int, D: int, device: torch.device) -> list[str]:
    """Return the cells of one size: milliseconds of the distances, then ratios to them."""
    x, y, gradient = (torch.randn(B, n, device=device) for n in (D, D, B))
    x.requires_grad_()
    y.requires_grad_()

    def distances() -> None:
        torch.autograd.backward([pairwise_distances(x), pairwise_distances(y)], [gradient] * 2)

    def cdist() -> None:
        torch.autograd.backward([torch.cdist(x, x), torch.cdist(y, y)], [gradient] * 2)

    def dependence(statistic: Statistic) -> Callable[[], None]:
        return lambda: distance_correlation(x, y, statistic=statistic).backward()  # type: ignore[no-untyped-call]

    base, *others = medians([distances, cdist, *map(dependence, STATISTICS)], (x, y))
    return [str(B), str(D), f"{base * 1000:.1f} ms", *(f"{other / base:.2f}" for other in others)]


def medians(runs: list[Callable[[], None]], inputs: tuple[Tensor, ...]) -> list[float]:
    """Return the median seconds of each run, measured in turns after one warm-up round."""
    seconds: list[list[float]] = [[] for _ in runs]
    for number in range(ROUNDS + 1):
        for run, found in zip(runs, seconds, strict=True):
            started = time.perf_counter()
            run()
            if inputs[0].is_cuda:
                torch.cuda.synchronize()
            if number:
                found.append(time.perf_counter() - started)
            for tensor in inputs:
                tensor.grad = None
    return [statistics.median(found) for found in seconds]


if __name__ == "__main__":
    main()
