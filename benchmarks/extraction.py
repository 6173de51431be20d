"""Time extraction against a bare loop over images in memory, and measure its workers' memory.

    python -m benchmarks.extraction [--images N] [--sides 32 96] [--rounds R] [--wide]

Each figure comes from its own process, bound to one core (two for two workers), in turns:

    bare   preparation, representation and reduction of decoded images in memory, nothing else
    one    `extract` by one worker: reads tars, decodes images, writes chunks
    two    `extract` by two workers on two cores
    large  as `one`, with four times as many images in a shard

Rates are images per second of the phases that compute rows; a ratio is the median over rounds.
With --wide, scattering of images of 224 px (762,048 numbers) is reduced to 256 principal
components, and the peak memory of the whole process is printed.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from pipeline.base.progress import Silent, Step
from pipeline.datasets.source import Encoded, Item, Source
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.reduction import Reduction
from pipeline.features.store import FeatureStore
from pipeline.images.decoding import decode
from pipeline.images.original_view import ImageOptions
from pipeline.representations.scattering import ScatteringOptions
from pipeline.shards.manifest import read_manifest
from pipeline.shards.reading import read_shard
from pipeline.shards.writing import ShardOptions, write_split

ROLES = {"bare": 1, "one": 1, "two": 2, "large": 1}
SAMPLES_PER_SHARD = 500
BATCH = 64
OPTIONS = ScatteringOptions.model_validate({"J": 2, "L": 8, "reduce": {"pca": 256}})
MEBIBYTE = 2**20


class Noise(Source):
    """Random images with the spectrum of natural ones; an item's name is its seed."""

    def __init__(self, count: int, side: int) -> None:
        self.side = side
        self.classes = None
        self.splits = {"train": [Item(f"{i:07d}") for i in range(count)]}
        frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
        self._envelope = 1 / np.maximum(frequency, 1 / side)

    def read(self, item: Item) -> Encoded:
        """Return one JPEG."""
        rng = np.random.default_rng(int(item.name))
        noise = rng.standard_normal((3, self.side, self.side))
        waves = np.fft.rfft2(noise) * self._envelope
        pixels = np.fft.irfft2(waves, s=(self.side, self.side)).transpose(1, 2, 0)
        scaled = (pixels - pixels.min()) / np.ptp(pixels) * 255
        with tempfile.SpooledTemporaryFile() as file:
            Image.fromarray(scaled.astype(np.uint8)).save(file, format="jpeg", quality=90)
            file.seek(0)
            return Encoded(file.read(), "jpg")


class Clock(Silent):
    """A Progress that times the phases in which rows are computed."""

    def __init__(self) -> None:
        self.seconds = self._last = 0.0
        self.images = 0
        self._computing = False

    def start(self, what: str, total: int, unit: str, *, step: Step | None = None) -> None:
        """Begin a phase."""
        self._computing, self._last = step in ("sample", "measure", "extract"), time.perf_counter()

    def advance(self, count: int, status: str = "") -> None:
        """Add the time of a shard or a batch."""
        if self._computing:
            now = time.perf_counter()
            self.seconds, self._last = self.seconds + now - self._last, now
            self.images += count

    @property
    def rate(self) -> float:
        """Images per second, from the first task of a phase to its last result."""
        return self.images / self.seconds


def image_options(side: int) -> ImageOptions:
    """Return how the images are seen."""
    return ImageOptions(size=side, channels=3, mean=(0.48,) * 3, std=(0.25,) * 3)


def pack(root: Path, count: int, side: int, samples: int) -> None:
    """Write the shards."""
    source = Noise(count, side)
    write_split(
        source,
        source.splits["train"],
        root / "train",
        dataset="noise",
        split="train",
        options=ShardOptions(samples=samples),
        provenance={},
        progress=Silent(),
    )


def rate_of_extraction(shards: Path, side: int, workers: int) -> float:
    """Extract into a temporary store; return images per second."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        extract(
            {"scattering": OPTIONS},
            image=image_options(side),
            shards=shards,
            store=FeatureStore(root / "features.zarr"),
            work=root / "work",
            options=ClusterOptions(workers),
            progress=clock,
        )
    return clock.rate


def rate_of_a_bare_loop(shards: Path, side: int, basis: Path) -> float:
    """Compute the same rows from images in memory; return images per second."""
    manifest = read_manifest(shards / "train")
    representation = OPTIONS.build(image_options(side)).eval()
    images = [
        decode(record.data)
        for number in range(len(manifest.shards))
        for record in read_shard(shards / "train", manifest, number)
    ]
    reduction = Reduction.load(*FeatureStore(basis)["scattering"].reduction())
    began = time.perf_counter()
    with torch.inference_mode():
        for first in range(0, len(images), BATCH):
            part = [representation.preparation(image) for image in images[first : first + BATCH]]
            reduction.apply(representation(torch.stack(part))).half().numpy()
    return len(images) / (time.perf_counter() - began)


def play(role: str, root: Path, side: int) -> None:
    """Run one role in this process; print its rate and its peak memory in MiB."""
    if role == "bare":
        rate = rate_of_a_bare_loop(root / "shards", side, root / "features.zarr")
    else:
        shards = root / ("large" if role == "large" else "shards")
        rate = rate_of_extraction(shards, side, ROLES[role])
    who = resource.RUSAGE_CHILDREN if role == "two" else resource.RUSAGE_SELF
    print(json.dumps({"rate": rate, "mib": resource.getrusage(who).ru_maxrss / 1024}))


def ask(role: str, root: Path, side: int) -> dict[str, float]:
    """Run a role in its own process, on as many cores as the role has; return what it prints."""
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[: ROLES[role]])
    command = [sys.executable, "-m", "benchmarks.extraction", "--role", role]
    done = subprocess.run(
        ["taskset", "-c", cores, *command, "--root", str(root), "--side", str(side)],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "OMP_WAIT_POLICY": "PASSIVE",
            # The same as for a worker, see WORKER_ENVIRONMENT.
            "MALLOC_TRIM_THRESHOLD_": str(2**30),
            "MALLOC_MMAP_THRESHOLD_": str(2**25),
        },
    )
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compare(count: int, side: int, rounds: int) -> None:
    """Print rates, their ratios, and the memory of a worker."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        samples = count // 8
        pack(root / "shards", count, side, samples)
        pack(root / "large", count, side, 4 * samples)
        extract(
            {"scattering": OPTIONS},
            image=image_options(side),
            shards=root / "shards",
            store=FeatureStore(root / "features.zarr"),
            work=root / "work",
            options=ClusterOptions(),
            progress=Silent(),
        )
        answers = [{role: ask(role, root, side) for role in ROLES} for _ in range(rounds)]
    print(f"scattering at {side} px to 256 components, {count} images, {rounds} rounds")
    for role in ROLES:
        rate = median(answer[role]["rate"] for answer in answers)
        peak = max(answer[role]["mib"] for answer in answers)
        print(f"{role:>6} {rate:>8.0f} images/s   peak {peak:>6.0f} MiB")
    for what, over, under, wanted in (
        ("one worker over the bare loop", "one", "bare", 0.9),
        ("two workers over one", "two", "one", 1.7),
    ):
        ratio = median(a[over]["rate"] / a[under]["rate"] for a in answers)
        print(f"{what}: {ratio:.2f} (target: at least {wanted})")
    grown = median(a["large"]["mib"] / a["one"]["mib"] for a in answers)
    print(f"memory with four times as many images in a shard: {grown:.2f} times")


def fit_wide(count: int) -> None:
    """Extract scattering at 224 px and print the peak memory of the process."""
    side = 224
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        pack(root / "shards", count, side, SAMPLES_PER_SHARD)
        clock = Clock()
        stored = extract(
            {"scattering": OPTIONS},
            image=image_options(side),
            shards=root / "shards",
            store=FeatureStore(root / "features.zarr"),
            work=root / "work",
            options=ClusterOptions(workers=1),
            progress=clock,
        )["scattering"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBIBYTE
    fidelity = stored.report["fidelity"]
    print(f"{stored.report['original_width']} numbers, fitted on {stored.report['fit_images']}")
    print(f"peak {peak:.1f} GiB; error of dCor {fidelity['dcor_error_max']:.1e}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=4000, help="number at 32 px; fewer if larger")
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 96])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        play(options.role, options.root, options.side)
    elif options.wide:
        fit_wide(options.images)
    else:
        for side in options.sides:
            compare(options.images * 32**2 // side**2, side, options.rounds)


if __name__ == "__main__":
    main()
