"""What the stages around the computing cost: starting processes, scoring, drawing the report.

Every stage is a process of its own, which imports libraries for seconds. On small data this is most
of a run, so it is measured: one process is started and imports what stages do, and its time on a
core counts. How many such starts the stages are worth was measured once, on the digits and on 400
photographs.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pipeline.evaluation.protocol import ProtocolOptions
from pipeline.evaluation.semi_supervised import SemiSupervisedOptions

# A stage's own start, and what DVC adds, in starts.
STARTS = {
    "source": 1.4,
    "shard": 1.4,
    "extract": 1.5,
    "select": 1.1,
    "train": 2.6,
    "evaluate": 1.8,
    "report": 2.4,
    "keep": 1.1,
}
IMPORTED = "import stages.evaluate"
DRAWN, DRAWN_AT_MOST = 0.006, 2000  # seconds for an image on the page's maps, and their number
DRAWING = 3.0
FITS, ITERATIONS = 5, 60  # of a linear probe: penalties, and steps of each fit
ROUNDS = 3  # measurements of the rate, of which the best counts


@dataclass(frozen=True)
class ScoringRates:
    """Seconds that an encoder takes for an image, and operations a second of a matrix product."""

    embed: float
    operations: float


def start_seconds(meanwhile: Callable[[], object]) -> float:
    """Return the seconds of a core that a process of a stage takes to start.

    It starts beside `meanwhile`, which is called here.
    """
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", IMPORTED],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        meanwhile()
    finally:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime


def stage_start(stage: str, start: float) -> float:
    """Return the seconds that a stage takes besides its work, from those of one start."""
    return STARTS[stage.partition("@")[0]] * start


def operations_a_second() -> float:
    """Return how many multiplications and additions a matrix product does in a second."""
    left, right, best = torch.randn(2048, 512), torch.randn(512, 64), float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - began)
    return 2 * 2048 * 512 * 64 / best


def scoring_seconds(
    options: ProtocolOptions,
    *,
    images: Mapping[str, int],
    widths: Mapping[str, int],
    classes: int,
    encoders: int,
    rates: ScoringRates,
    view_seconds: float,
) -> float:
    """Return the seconds of one protocol, without its start.

    `images` counts those of each split, `widths` the numbers of each subject, of which `encoders`
    are embedded anew; `view_seconds` is what training takes for a view of an image.
    """
    train, held_out = images["train"], sum(images.values()) - images["train"]
    read = encoders * sum(images.values()) * rates.embed
    total = sum(widths.values())
    if options.kind in ("linear", "voc07"):
        operations = FITS * ITERATIONS * 6 * train * total * max(classes, 2)
    elif options.kind == "knn":
        operations = 2 * held_out * train * total
    elif options.kind == "retrieval":
        read = encoders * held_out * rates.embed
        operations = 6 * held_out**2 * total
    else:
        operations = 0
    seconds = read + operations / rates.operations
    if isinstance(options, SemiSupervisedOptions):
        few = max(options.batch_size, round((options.share or 0.1) * train))
        batches = few // options.batch_size
        seconds += encoders * options.epochs * batches * options.batch_size * view_seconds
    return seconds


def drawing_seconds(images: int) -> float:
    """Return the seconds that the report of this number of test images takes, without its start."""
    return DRAWING + DRAWN * min(images, DRAWN_AT_MOST)
