"""How busy extraction and training keep an accelerator, and how much memory that takes.

    python -m benchmarks.feeding [--cases 32 96 224 12MP] [--fed extraction streaming resident]
                                 [--rounds R] [--seconds S]
    python -m benchmarks.feeding --memory [--images 1000 10000]

The accelerator is a stand-in (`benchmarks/stand_in.py`), fed by extraction with one worker, or by
the streaming or the resident loader of training, on all cores that this process may use. The files
are JPEG: 32 x 32 and 96 x 96 pixels as they are, 448 x 448 seen at 224 px, 3464 x 3464
(12 megapixels) seen at 224 px. Per round, in turns:

    bare     one process a core decodes files in memory and prepares them for extraction, or cuts
             one random view of each for training, nothing else
    hungry   what feeds, with an accelerator ten times as fast as that: decoding is the limit
    own      an accelerator a quarter as fast, on images that it has
    calm     what feeds, with that accelerator

Rates are images per second: of extraction after its first tar, of training over a whole epoch after
the first. Where files have the view's size, random views are cut on the accelerator and cost
nothing here, and the resident loader keeps what it has decoded, so that only `calm` says something
of it. Ratios are taken within a round. Where decoding is the limit, the ratio of images per second
of CPU time is printed too, which hardly depends on other programs.
With --memory, the peak memory of a worker that extracts so many photographs of 448 x 448.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle, product
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.accelerator.teacher import Photographs, pack
from benchmarks.stand_in import StandInOptions, take_time
from benchmarks.timing import cost_of, rounds, spread, verdict
from pipeline.base.devices import available_cores
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.store import FeatureStore
from pipeline.images.cutting import cut_views, original_view_of
from pipeline.images.decoding import opened
from pipeline.images.original_view import ImageOptions
from pipeline.images.preparation import OriginalView
from pipeline.images.random_views import AugmentationOptions
from pipeline.images.view_operations import BOX_NUMBERS, drawn_boxes
from pipeline.loading.batch import SplitData
from pipeline.loading.batch_pixels import RandomViews
from pipeline.loading.loaders import LoadingOptions, training_loader
from pipeline.planning.pace import PaceMeter
from pipeline.shards.manifest import read_manifests

TARS = 8
HUNGRY, CALM = 10.0, 0.25  # rates of the accelerator, over that of bare decoding
STEP_SECONDS = 0.25
FEWEST_IMAGES = 64
BARE_SECONDS = 3.0
SETTINGS = {
    "MALLOC_ARENA_MAX": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}


@dataclass(frozen=True)
class Case:
    """Square files of a side, seen at a size."""

    file: int
    view: int

    @property
    def image(self) -> ImageOptions:
        """How the images are seen."""
        return ImageOptions(size=self.view, channels=3, mean=(0.48,) * 3, std=(0.25,) * 3)


CASES = {"32": Case(32, 32), "96": Case(96, 96), "224": Case(448, 224), "12MP": Case(3464, 224)}


@dataclass(frozen=True)
class Rate:
    """Images per second, by the clock and of CPU time."""

    clock: float
    cpu: float


Work = Callable[[bytes], object]


def prepared(case: Case) -> Work:
    """Return what extraction does to a file before its network."""
    prepare = OriginalView(case.image)
    return lambda data: prepare.pixels(opened(data))


def cut(case: Case) -> Work:
    """Return what training does to a file before its step, with boxes that are drawn already."""
    if case.file == case.view:
        return lambda data: original_view_of(opened(data), case.image)
    boxes = drawn_boxes(
        np.random.default_rng(0).random((64, BOX_NUMBERS)), 0.2, height=case.file, width=case.file
    )
    turns = cycle(np.split(boxes, len(boxes)))
    return lambda data: cut_views(opened(data), case.image, next(turns))


def bare_rate(files: Sequence[bytes], work_of: Callable[[Case], Work], case: Case) -> Rate:
    """Return the rate at which one process a core works on files, for a second or two."""
    cores = available_cores()
    with ProcessPoolExecutor(cores, get_context("fork")) as pool:
        found = list(pool.map(partial(_alone, files, work_of, case), range(cores)))
    return Rate(sum(one.clock for one in found), sum(one.cpu for one in found) / cores)


def _alone(
    files: Sequence[bytes], work_of: Callable[[Case], Work], case: Case, number: int
) -> Rate:
    torch.set_num_threads(1)
    work, done = work_of(case), number
    began, used = time.perf_counter(), time.process_time()
    while time.perf_counter() < began + BARE_SECONDS:
        work(files[done % len(files)])
        done += 1
    images = done - number
    return Rate(images / (time.perf_counter() - began), images / (time.process_time() - used))


class CpuMeter(PaceMeter):
    """A meter that also records the CPU time of this process at each unit."""

    def __init__(self) -> None:
        super().__init__()
        self.used: list[float] = []

    def advance(self, count: int, status: str = "") -> None:
        """Record the times."""
        super().advance(count, status)
        if count:
            self.used.append(time.process_time())


def own_rate(rate: float, case: Case, batch: int, seconds: float) -> Rate:
    """Return the rate of an accelerator that has its images."""
    network = StandInOptions(images_per_second=rate).build(case.image)
    images = torch.zeros(batch, 3, case.view, case.view)
    done, began, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() < began + seconds:
        network(images)
        done += batch
    return Rate(done / (time.perf_counter() - began), done / (time.process_time() - used))


def extraction_rate(shards: Path, rate: float, case: Case, batch: int) -> Rate:
    """Return the rate of an extraction by one worker in this process, after its first tar."""
    meter = CpuMeter()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        extract(
            {"network": StandInOptions(images_per_second=rate)},
            image=case.image,
            shards=shards,
            store=FeatureStore(root / "features.zarr"),
            work=root / "work",
            options=ClusterOptions(1, batch_size=batch),
            progress=meter,
        )
    (phase,) = meter.of("extract")
    piece = phase.piece(1)
    used = meter.used[-1] - meter.used[0]
    return Rate(piece.images / piece.seconds, piece.images / used)


def training_rate(mode: str, shards: Path, rate: float, case: Case, batch: int) -> Rate:
    """Return the rate of a loader's second epoch, for steps of the accelerator."""
    (manifest,) = read_manifests(shards).values()
    loader = training_loader(
        SplitData(shards / "train", manifest, {}, case.image),
        LoadingOptions.model_validate({"mode": mode, "workers": available_cores()}),
        batch_size=batch,
        seed=0,
        views=RandomViews(AugmentationOptions(policy="custom"), original=False),
    )

    def epoch() -> int:
        for _ in loader:
            take_time(batch / rate)
        return batch * len(loader)

    epoch()
    cost = cost_of(epoch)
    return Rate(1 / cost.wall_each, 1 / cost.cpu_each)


WAYS: dict[str, tuple[Callable[[Case], Work], Callable[[Path, float, Case, int], Rate]]] = {
    "extraction": (prepared, extraction_rate),
    "streaming": (cut, partial(training_rate, "streaming")),
    "resident": (cut, partial(training_rate, "resident")),
}


def compare(name: str, fed: str, repeats: int, seconds: float) -> None:
    """Print the rates of one case and what feeds, and their ratios."""
    case = CASES[name]
    work_of, fed_rate = WAYS[fed]
    files = Photographs(None, 16, made_side=case.file).files
    first = bare_rate(files, work_of, case)
    guess = first.clock
    fast, slow = HUNGRY * first.cpu * available_cores(), CALM * guess
    found: dict[str, list[Rate]] = {role: [] for role in ("bare", "hungry", "own", "calm")}
    with tempfile.TemporaryDirectory() as directory:
        made, hungry, calm = (Path(directory) / name for name in ("made", "hungry", "calm"))
        made.mkdir()
        for number, file in enumerate(files):
            (made / f"{number}.jpg").write_bytes(file)
        for shards, rate in ((hungry, guess), (calm, slow)):
            count = max(FEWEST_IMAGES, int(rate * seconds))
            pack(Photographs(made, count), shards, samples=-(-count // TARS))
        work = {
            "bare": partial(bare_rate, files, work_of, case),
            "hungry": partial(fed_rate, hungry, fast, case, batch_of(fast)),
            "own": partial(own_rate, slow, case, batch_of(slow), BARE_SECONDS),
            "calm": partial(fed_rate, calm, slow, case, batch_of(slow)),
        }
        for turns in rounds(list(work), repeats):
            for role in turns:
                found[role].append(work[role]())
    cores = available_cores()
    print(f"{fed}, {name}: files of {case.file} px seen at {case.view} px, {cores} cores")
    for role, rates in found.items():
        print(f"{role:>8} {spread([rate.clock for rate in rates], 1)} images/s")
    for what, over, under, wanted in (
        ("fed, where decoding is the limit, over bare decoding", "hungry", "bare", 0.95),
        ("fed, where it is not, over the accelerator's own rate", "calm", "own", 0.98),
    ):
        pairs = list(zip(found[over], found[under], strict=True))
        ratios = [above.clock / below.clock for above, below in pairs]
        print(f"{what}: {spread(ratios)}; {verdict(median(ratios), at_least=wanted)}")
        if over == "hungry":
            print(f"    by CPU time: {spread([above.cpu / below.cpu for above, below in pairs])}")
    sys.stdout.flush()


def batch_of(rate: float) -> int:
    """Return how many images make a step of a usual length."""
    return max(1, min(64, int(rate * STEP_SECONDS)))


def peak_memory(count: int) -> None:
    """Extract so many photographs in this process, and print its peak memory."""
    case = CASES["224"]
    with tempfile.TemporaryDirectory() as directory:
        shards = Path(directory) / "shards"
        pack(Photographs(None, count, made_side=case.file), shards, samples=500)
        extraction_rate(shards, 1e6, case, 64)
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def compare_memory(counts: Sequence[int]) -> None:
    """Print the peak memory of workers, each in a process of its own."""
    for count in counts:
        command = [sys.executable, "-m", "benchmarks.feeding", "--peak", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"{count:>7} photographs: peak {json.loads(done.stdout.splitlines()[-1]):.0f} MiB")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--fed", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one extraction")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        peak_memory(options.peak)
    elif options.memory:
        compare_memory(options.images)
    else:
        for fed, name in product(options.fed, options.cases):
            compare(name, fed, options.rounds, options.seconds)


if __name__ == "__main__":
    if os.environ.keys() >= SETTINGS.keys():
        main()
    else:  # the settings of a worker, which a process has from its start
        module = [sys.executable, "-m", "benchmarks.feeding", *sys.argv[1:]]
        sys.exit(subprocess.run(module, env={**os.environ, **SETTINGS}, check=False).returncode)
