"""What an experiment will cost, from running it on a few of its images.

Nothing is modelled that can be measured: a sample goes through the same sharding, extraction and
training as the whole will, and what was measured an image is multiplied by the images.
"""

import math
import resource
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil
import torch

from pipeline.datasets.base import Item, Source, Split
from pipeline.encoding import Encoding
from pipeline.errors import DataError
from pipeline.extraction.cluster import ClusterOptions
from pipeline.extraction.fingerprint import FIT_IMAGES
from pipeline.extraction.prepare import FIDELITY_IMAGES
from pipeline.extraction.run import extract
from pipeline.images import ImageOptions
from pipeline.loading.batch import SplitData
from pipeline.reduction import MOST_COMPONENTS
from pipeline.representations.base import RepresentationOptions
from pipeline.runtime import Progress, Silent, available_cores
from pipeline.shards import Manifest, ShardOptions, write_split
from pipeline.store import FeatureStore, StoredFeature, chunk_rows
from pipeline.training.fit import Run, fit
from pipeline.training.options import ParallelOptions

TAR_BLOCK, TAR_RECORD = 512, 10_240
SHARDS_PER_CORE = 8
VALIDATION_SHARE = 3  # one image of three, so that what an epoch costs besides steps shows
MEASURED_EPOCHS = 3  # the first one warms up
FEWEST_IMAGES = 24


class Stopwatch:
    """A Progress that remembers when each phase began and each unit of it was done.

    What it is told goes on to `watched`, but for the lines that stay.
    """

    def __init__(self, watched: Progress | None = None) -> None:
        self.phases: dict[str, _Phase] = {}
        self._current = _Phase(0)
        self._watched = watched or Silent()

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin a phase."""
        self._current = self.phases[what] = _Phase(total)
        self._watched.start(f"try: {what}", total, unit)

    def advance(self, count: int, status: str = "") -> None:
        """Note the time."""
        if count:
            self._current.times.append(time.perf_counter())
        self._watched.advance(count, status)

    def note(self, text: str) -> None:
        """Do nothing."""


class _Phase:
    def __init__(self, total: int) -> None:
        self.total = total
        self.began = time.perf_counter()
        self.times: list[float] = []

    @property
    def seconds(self) -> float:
        """Time from the beginning to the last unit."""
        return (self.times[-1] if self.times else self.began) - self.began


@dataclass(frozen=True)
class ShardCost:
    """Bytes of all tars, and seconds to write them."""

    bytes: int
    seconds: float


@dataclass(frozen=True)
class FeatureCost:
    """One stored feature: numbers an image, bytes in the store, rate, seconds to extract it."""

    width: int
    bytes: int
    images_per_second: float
    seconds: float


@dataclass(frozen=True)
class TrainingCost:
    """Seconds an epoch, with its validation; bytes at the peak, of the host and of a GPU.

    `resident_bytes` is what the images and targets take if they are kept in memory, which is
    part of the host's bytes only where they are.
    """

    epoch_seconds: float
    host_bytes: int
    gpu_bytes: int
    resident_bytes: int


@dataclass(frozen=True)
class Sample:
    """Some of an experiment's training images as shards: two thirds to train on, one to validate.

    `images` is how many each split of the whole has, `samples_per_shard` how many a tar of it.
    """

    root: Path
    manifests: Mapping[Split, Manifest]
    images: Mapping[Split, int]
    samples_per_shard: int
    cost: ShardCost


def sample_of(
    source: Source,
    splits: Mapping[Split, Sequence[Item]],
    options: ShardOptions,
    *,
    count: int,
    root: Path,
    progress: Progress | None = None,
) -> Sample:
    """Shard the first `count` training images, which are a random choice, below `root`.

    Raises DataError if there are too few.
    """
    chosen = splits["train"][:count]
    if len(chosen) < FEWEST_IMAGES:
        raise DataError(
            f"A plan is measured on {FEWEST_IMAGES} training images at least; found {len(chosen)}."
        )
    border = len(chosen) - len(chosen) // VALIDATION_SHARE
    parts: dict[Split, Sequence[Item]] = {"train": chosen[:border], "validation": chosen[border:]}
    small = max(1, border // (SHARDS_PER_CORE * available_cores()))
    watch = Stopwatch(progress)
    began = time.perf_counter()
    manifests = {
        split: write_split(
            source,
            items,
            root / "shards" / split,
            dataset="sample",
            split=split,
            options=ShardOptions(samples=small, on_bad_image=options.on_bad_image),
            provenance={},
            progress=watch,
        )
        for split, items in parts.items()
    }
    seconds = time.perf_counter() - began
    images = {split: len(items) for split, items in splits.items()}
    content = sum(_content_bytes(tar) for tar in sorted((root / "shards").glob("*/*.tar")))
    scale = sum(images.values()) / len(chosen)
    size = sum(_tar_bytes(n, options.samples, content / len(chosen)) for n in images.values())
    cost = ShardCost(size, scale * seconds)
    return Sample(root, manifests, images, options.samples, cost)


def _content_bytes(path: Path) -> int:
    """Return the bytes of a tar's members with their headers, without its end."""
    with tarfile.open(path) as tar:
        sizes = [member.size for member in tar]
    return sum(TAR_BLOCK + TAR_BLOCK * math.ceil(size / TAR_BLOCK) for size in sizes)


def _tar_bytes(images: int, samples: int, bytes_per_image: float) -> int:
    """Return the bytes of tars of `samples` images each: two empty blocks end one, then padding."""
    whole, rest = divmod(images, samples)
    return sum(
        count * TAR_RECORD * math.ceil((held * bytes_per_image + 2 * TAR_BLOCK) / TAR_RECORD)
        for count, held in ((whole, samples), (1, rest))
        if held
    )


def extraction_cost(
    sample: Sample,
    name: str,
    options: RepresentationOptions,
    image: ImageOptions,
    *,
    progress: Progress | None = None,
) -> tuple[FeatureCost, StoredFeature]:
    """Extract one feature of the sample; return what the whole will cost, and the feature.

    Components are as many as the sample allows, and counted as those asked for.
    """
    store = FeatureStore(sample.root / "features.zarr")
    store.create()
    watch, began = Stopwatch(progress), time.perf_counter()
    stored = extract(
        {name: _affordable(options, sample)},
        image=image,
        shards=sample.root / "shards",
        store=store,
        work=sample.root / "work",
        options=ClusterOptions(),
        progress=watch,
    )[name]
    elapsed = time.perf_counter() - began
    phase = next(p for what, p in watch.phases.items() if what.startswith("extract"))
    rate = phase.total / max(phase.seconds, 1e-9)
    overhead = elapsed - sum(p.seconds for p in watch.phases.values())
    total = sum(sample.images.values())
    before = min(total, FIDELITY_IMAGES + (FIT_IMAGES if options.reduce.by_components else 0))
    width = _asked_width(options, stored.width)
    size = _stored_bytes(stored, width, Encoding(options.dtype).itemsize, sample)
    return FeatureCost(width, size, rate, overhead + (total + before) / rate), stored


def _affordable(options: RepresentationOptions, sample: Sample) -> RepresentationOptions:
    if not options.reduce.pca:
        return options
    most = max(1, sample.manifests["train"].samples // 4)
    reduce = options.reduce.model_copy(update={"pca": min(options.reduce.pca, most)})
    return options.model_copy(update={"reduce": reduce})


def _asked_width(options: RepresentationOptions, found: int) -> int:
    """Return the numbers an image that the options ask for; at most, where fidelity decides."""
    if options.reduce.fidelity is not None:
        return MOST_COMPONENTS
    return options.reduce.pca or found


def _stored_bytes(stored: StoredFeature, width: int, itemsize: int, sample: Sample) -> int:
    """Return the bytes of whole chunks, for which the last one is filled up, and of the basis."""
    rows = 0
    for images in sample.images.values():
        chunk = chunk_rows(min(sample.samples_per_shard, images), width, itemsize)
        rows += chunk * math.ceil(images / chunk)
    basis = _size_below(stored.path / "reduction") * width / stored.width
    return rows * width * itemsize + int(basis)


def _size_below(path: object) -> int:
    return sum(f.stat().st_size for f in Path(str(path)).rglob("*") if f.is_file())


def training_cost(
    run: Run,
    sample: Sample,
    *,
    memory_share: float,
    work: Path,
    progress: Progress | None = None,
) -> TrainingCost:
    """Train on the sample for some epochs, on one device; `run` has its shards and features.

    The batch is as large as the sample allows, and what a step takes is counted by its images.
    """
    train, validation = run.train.valid_samples, run.validation.valid_samples
    batch = max(2, min(run.options.batch_size, train // 2))
    options = run.options.model_copy(
        update={
            "epochs": MEASURED_EPOCHS,
            "batch_size": batch,
            "schedule": run.options.schedule.model_copy(
                update={"kind": "constant", "warmup_epochs": 0.0, "hold_epochs": 0.0}
                | {"milestones": (), "final_lr": 0.0}
            ),
            "loading": run.options.loading.model_copy(update={"mode": "resident"}),
            "parallel": ParallelOptions(accelerator=run.options.parallel.accelerator),
        }
    )
    watch = Stopwatch(progress)
    fit(replace(run, options=options), work=work, progress=watch)
    times = watch.phases["train"].times
    steps = train // batch
    first = steps  # the first epoch warms up
    gaps = [b - a for a, b in pairwise(times)]
    borders = [gaps[i] for i in range(first - 1, len(gaps), steps)]
    within = [gap for i, gap in enumerate(gaps) if i >= first and (i + 1) % steps]
    step = median(within or gaps)
    validated = max(0.0, min(borders) - step) / validation
    whole = sample.images
    held_out = whole.get("validation", 0)
    seconds = whole["train"] * step / batch + held_out * validated
    resident = _resident_bytes(run.train, whole["train"] + held_out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    fits = resident <= memory_share * _available_bytes()
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return TrainingCost(seconds, peak + (resident if fits else 0), gpu, resident)


def _resident_bytes(data: SplitData, images: int) -> int:
    return images * data.resident_bytes() // data.manifest.samples


def _available_bytes() -> int:
    return int(psutil.virtual_memory().available)
