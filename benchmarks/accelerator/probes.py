"""The time of k-NN and linear probes on the device, and on the CPU with fewer rows.

Features are drawn around the centres of a hundred classes, in float32.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.accelerator.results import Options, Results
from pipeline.evaluation.knn import KnnOptions, knn_probe
from pipeline.evaluation.labelled_features import LabelledFeatures
from pipeline.evaluation.linear import LinearOptions, linear_probe

WIDTH, CLASSES = 512, 100
Splits = tuple[LabelledFeatures, LabelledFeatures, LabelledFeatures]


def measure(options: Options, results: Results) -> None:
    """Time both probes: some rows on both devices, and all rows on the device."""
    cpu = torch.device("cpu")
    part = (2_000, 200) if options.tiny else (20_000, 2_000)
    whole = (4_000, 400) if options.tiny else (200_000, 10_000)
    for size, device in ((part, options.device), (part, cpu), (whole, options.device)):
        splits = drawn(*size)
        name = f"{size[0]:,} rows on {device.type}"
        results.attempt(f"k-NN, {name}", partial(knn, splits, device))
        results.attempt(f"linear, {name}", partial(linear, splits, device))


def drawn(rows: int, queries: int) -> Splits:
    """Return training, validation and test features with their labels."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, WIDTH, generator=random)

    def split(count: int) -> LabelledFeatures:
        labels = torch.arange(count) % CLASSES
        noise = torch.randn(count, WIDTH, generator=random)
        return LabelledFeatures(centres[labels] + 6 * noise, labels)

    return split(rows), split(queries), split(queries)


def knn(splits: Splits, device: torch.device) -> dict[str, Any]:
    """Return seconds and accuracy of the nearest-neighbour probe."""
    result, seconds = timed(lambda: knn_probe(*splits, options=KnnOptions(), device=device))
    return {"seconds": seconds, "top1": accuracy(splits, result.classes, result.test_scores)}


def linear(splits: Splits, device: torch.device) -> dict[str, Any]:
    """Return seconds and accuracy of the linear probe, and which fits reached their optimum."""
    result, seconds = timed(lambda: linear_probe(*splits, options=LinearOptions(), device=device))
    top1 = accuracy(splits, result.classifier.classes, result.test_logits)
    return {"seconds": seconds, "top1": top1, "converged": list(result.converged)}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of `work` and its seconds; results are on the CPU."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def accuracy(splits: Splits, classes: torch.Tensor, scores: torch.Tensor) -> float:
    """Return top-1 on the test rows, in percent, of scores (N, K) for `classes` (K,)."""
    predictions = classes[scores.argmax(dim=1)]
    return 100 * (predictions == splits[2].labels).double().mean().item()
