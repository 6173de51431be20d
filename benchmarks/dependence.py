"""Cost of distance correlation relative to its distance matrices, forward and backward.

    python -m benchmarks.dependence [--device cuda] [--threads 2] [--ranks]

Each row is one batch size B and width D. "distances" computes two distance matrices and
backpropagates through them; every statistic also computes itself. Ratios compare runs that
alternate within one process; the goal is at most 1.3 at B = 1024, D = 8192.

With `--ranks`, each row is a number of processes with 256 rows of 2,048 numbers each, and what one
of them does for the distances of one sample: all of the joint batch ("all"), as it was done once,
or those of its own rows to all ("own"). Work, memory and traffic follow from the sizes; times are
those of this process alone, without the traffic, where all distances fit into it.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.dependence.distance_correlation import Statistic, distance_correlation
from pipeline.dependence.distances import own_distances, pairwise_distances

SIZES = ((256, 512), (256, 8192), (512, 2048), (1024, 2048), (1024, 8192))
STATISTICS: tuple[Statistic, ...] = ("dcor", "dcor_squared", "dcor_squared_unbiased")
ROUNDS = 7
RANKS, RANK_ROWS, RANK_WIDTH = (1, 2, 8, 64), 256, 2048
MOST_ROWS = 4096  # of a joint batch whose distances are all computed here


def main() -> None:
    """Print a table of milliseconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ranks", action="store_true", help="the share of one of many processes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.ranks:
        header = ["ranks", "GFLOP all", "GFLOP own", "MB all", "MB own", "MB sent", "all", "own"]
        print(" ".join(f"{name:>10}" for name in header))
        for ranks in RANKS:
            cells = rank_row(ranks, torch.device(arguments.device))
            print(" ".join(f"{cell:>10}" for cell in cells))
        return
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


def rank_row(ranks: int, device: torch.device) -> list[str]:
    """Return the cells of one number of processes."""
    b, D, N = RANK_ROWS, RANK_WIDTH, RANK_ROWS * ranks
    # All distances take one product forward and one backward, own ones one and two.
    all_work, own_work = 4 * N * N * D, 6 * b * N * D
    # Rows of the other processes come in, and their gradients go out.
    sent = 2 * 4 * (N - b) * D
    x, gradient = torch.randn(N, D, device=device), torch.randn(N, N if N <= MOST_ROWS else 1)
    x.requires_grad_()
    own_gradient = torch.randn(b, N, device=device)

    def own() -> None:
        torch.autograd.backward(own_distances(x, slice(0, b)), own_gradient)

    def everything() -> None:
        torch.autograd.backward(pairwise_distances(x), gradient.to(device))

    possible = [own, everything] if N <= MOST_ROWS else [own]
    seconds = [f"{1000 * s:.0f} ms" for s in medians(possible, (x,))]
    own_time, all_time = seconds if len(seconds) > 1 else [*seconds, "on paper"]
    sizes = [all_work / 1e9, own_work / 1e9, 4 * N * N / 1e6, 4 * b * N / 1e6, sent / 1e6]
    return [str(ranks), *(f"{size:.1f}" for size in sizes), all_time, own_time]


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
