"""How busy extraction keeps an accelerator, and how much memory that takes.

    python -m benchmarks.feeding [--cases 32 96 224 12MP] [--rounds R] [--seconds S]
    python -m benchmarks.feeding --memory [--images 1000 10000]

The accelerator is a stand-in (`benchmarks/stand_in.py`), fed by one worker on all cores that this
process may use. The files are JPEG: 32 x 32 and 96 x 96 pixels as they are, 448 x 448 seen at
224 px, 3464 x 3464 (12 megapixels) seen at 224 px. Per round, in turns:

    bare     one process a core decodes and prepares files in memory, nothing else
    hungry   extraction, with an accelerator ten times as fast as that: decoding is the limit
    own      an accelerator a quarter as fast, on images that it has
    calm     extraction with that accelerator

Rates are images per second, of extraction after its first tar; ratios are taken within a round.
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
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.accelerator.teacher import Photographs, pack
from benchmarks.stand_in import StandInOptions
from benchmarks.timing import rounds, spread, verdict
from pipeline.base.devices import available_cores
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.store import FeatureStore
from pipeline.images.decoding import decode
from pipeline.images.original_view import ImageOptions, OriginalView
from pipeline.planning.pace import PaceMeter

TARS = 8
HUNGRY, CALM = 10.0, 0.25  # rates of the accelerator, over that of bare decoding
STEP_SECONDS = 0.25
FEWEST_IMAGES = 64
SETTINGS = {
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


def bare_rate(files: Sequence[bytes], case: Case, seconds: float) -> float:
    """Return the images per second that one process a core decodes and prepares."""
    cores = available_cores()
    with ProcessPoolExecutor(cores, get_context("fork")) as pool:
        work = partial(_decode_for, files, case, seconds)
        return sum(pool.map(work, range(cores)))


def _decode_for(files: Sequence[bytes], case: Case, seconds: float, number: int) -> float:
    torch.set_num_threads(1)
    prepare, done, began = OriginalView(case.image), number, time.perf_counter()
    while time.perf_counter() < began + seconds:
        prepare.pixels(decode(files[done % len(files)]))
        done += 1
    return (done - number) / (time.perf_counter() - began)


def own_rate(rate: float, case: Case, batch: int, seconds: float) -> float:
    """Return the images per second of an accelerator that has its images."""
    network = StandInOptions(images_per_second=rate).build(case.image)
    images = torch.zeros(batch, 3, case.view, case.view)
    done, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        network(images)
        done += batch
    return done / (time.perf_counter() - began)


def fed_rate(shards: Path, rate: float, case: Case, batch: int) -> float:
    """Return the images per second of an extraction by one worker, after its first tar."""
    meter = PaceMeter()
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
    return piece.images / piece.seconds


def compare(name: str, repeats: int, seconds: float) -> None:
    """Print the rates of one case, and their ratios."""
    case = CASES[name]
    files = Photographs(None, 16, made_side=case.file).files
    guess = bare_rate(files, case, 1.0)
    found: dict[str, list[float]] = {role: [] for role in ("bare", "hungry", "own", "calm")}
    with tempfile.TemporaryDirectory() as directory:
        shards = {}
        for role, share in (("hungry", 1.0), ("calm", CALM)):
            count = max(FEWEST_IMAGES, int(share * guess * seconds))
            shards[role] = Path(directory) / role
            source = Photographs(None, count, made_side=case.file)
            pack(source, shards[role], samples=-(-count // TARS))
        batches = {
            role: max(1, min(64, int(guess * share * STEP_SECONDS)))
            for role, share in (("hungry", HUNGRY), ("calm", CALM))
        }
        work = {
            "bare": lambda: bare_rate(files, case, seconds / 2),
            "hungry": lambda: fed_rate(shards["hungry"], HUNGRY * guess, case, batches["hungry"]),
            "own": lambda: own_rate(CALM * guess, case, batches["calm"], seconds / 2),
            "calm": lambda: fed_rate(shards["calm"], CALM * guess, case, batches["calm"]),
        }
        for turns in rounds(list(work), repeats):
            for role in turns:
                found[role].append(work[role]())
    print(f"{name}: files of {case.file} px seen at {case.view} px, {available_cores()} cores")
    for role, rates in found.items():
        print(f"{role:>8} {spread(rates, 1)} images/s")
    for what, over, under, wanted in (
        ("fed, where decoding is the limit, over bare decoding", "hungry", "bare", 0.95),
        ("fed, where it is not, over the accelerator's own rate", "calm", "own", 0.98),
    ):
        ratios = [a / b for a, b in zip(found[over], found[under], strict=True)]
        middle = sorted(ratios)[len(ratios) // 2]
        print(f"{what}: {spread(ratios)}; {verdict(middle, at_least=wanted)}", flush=True)


def peak_memory(count: int) -> None:
    """Extract so many photographs in this process, and print its peak memory."""
    case = CASES["224"]
    with tempfile.TemporaryDirectory() as directory:
        shards = Path(directory) / "shards"
        pack(Photographs(None, count, made_side=case.file), shards, samples=500)
        fed_rate(shards, 1e6, case, 64)
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
        for name in options.cases:
            compare(name, options.rounds, options.seconds)


if __name__ == "__main__":
    if os.environ.keys() >= SETTINGS.keys():
        main()
    else:  # the settings of a worker, which a process has from its start
        module = [sys.executable, "-m", "benchmarks.feeding", *sys.argv[1:]]
        sys.exit(subprocess.run(module, env={**os.environ, **SETTINGS}, check=False).returncode)
