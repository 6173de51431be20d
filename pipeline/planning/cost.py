"""Estimating what an experiment will cost by running it on a few of its images.

Everything that can be measured is measured: a sample goes through the same sharding, extraction
and training as the full data set will. Tars and validation splits of two sizes separate costs per
image from fixed ones. The former are multiplied by the number of images, the latter by how often
they occur.
"""

import math
import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from pipeline.base.devices import available_cores
from pipeline.base.progress import Progress
from pipeline.features.encoding import Encoding
from pipeline.features.extraction.cluster import ClusterOptions, local_workers
from pipeline.features.extraction.engine import extract
from pipeline.features.extraction.prepare import split_counts
from pipeline.features.principal_components import components_of, fit_pca
from pipeline.features.projection import PROJECTED_WIDTH
from pipeline.features.store import FeatureStore, StoredFeature, chunk_rows
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import SplitData
from pipeline.loading.batch_pixels import BatchPixels
from pipeline.loading.loaders import bytes_in_memory
from pipeline.planning.pace import Pace, PaceMeter
from pipeline.planning.trial_sample import TrialSample
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.listing import IDENTITY_BYTES
from pipeline.training.run import Run
from pipeline.training.step_views import TRAINING
from pipeline.training.train_options import ParallelOptions

WARM_UP_EPOCHS = 1
TIMED_WIDTH = 1024  # numbers per vector in a timed fit, whose time is proportional to them


@dataclass(frozen=True)
class FeatureCost:
    """One stored feature: numbers per image, bytes in the store, rate, seconds to extract it.

    The rate counts only the time per image; the seconds count everything. `fit_images` is how
    many images the principal components are fitted on, 0 if there are none. Bytes and seconds
    include `views` stored views of each training image, as if each were an image of its own.
    """

    width: int
    bytes: int
    images_per_second: float
    seconds: float
    fit_images: int
    views: int = 0


@dataclass(frozen=True)
class TrainingCost:
    """Seconds per epoch, including validation; peak bytes of the host and of a GPU.

    `image_seconds` is what a training step takes for an image. `resident_bytes` is the size of
    images and targets in memory. `host_bytes` includes it only if they fit there.
    """

    epoch_seconds: float
    image_seconds: float
    host_bytes: int
    gpu_bytes: int
    resident_bytes: int


def extraction_cost(
    sample: TrialSample,
    name: str,
    options: RepresentationOptions,
    image: ImageOptions,
    *,
    progress: Progress | None = None,
) -> tuple[FeatureCost, StoredFeature]:
    """Extract one feature of the sample; return its cost for the full data set, and the feature.

    The sample may allow fewer components than the full data set; the cost counts those of the
    latter. Of the sample, no views are stored.
    """
    views, options = options.views, options.model_copy(update={"views": None})
    store = FeatureStore(sample.root / "features.zarr")
    store.create()
    meter, began, cpu = PaceMeter(progress), time.perf_counter(), time.process_time()
    workers = local_workers(ClusterOptions(), sample.shards)
    stored = extract(
        {name: options},
        image=image,
        shards=sample.root / "shards",
        store=store,
        work=sample.root / "work",
        options=ClusterOptions(workers=1),  # in this process, without the start of another
        progress=meter,
    )[name]
    elapsed = time.perf_counter() - began
    busy = (time.process_time() - cpu) / (elapsed * available_cores())
    pace, fixed = _pace(sample, meter, elapsed)
    if workers > 1:  # together they keep all cores busy
        pace = pace.times(max(1 / workers, min(1.0, busy)))
    original = stored.report["original_width"]
    fit_width = min(original, PROJECTED_WIDTH)
    fitted, _ = split_counts(options, fit_width, sample.images["train"])
    width = _whole_width(options, stored.width, fitted, fit_width)
    if options.reduce.by_components:
        fixed += _fit_seconds(fitted, fit_width, width)
    count = views.count if views else 0
    rows = sample.total + count * sample.images["train"]
    seconds = fixed + pace.seconds(sample.shards, rows)
    size = _stored_bytes(stored, width, Encoding(options.dtype).itemsize, sample, count)
    by_components = fitted if options.reduce.by_components else 0
    return FeatureCost(width, size, 1 / pace.per_image, seconds, by_components, count), stored


def _pace(sample: TrialSample, meter: PaceMeter, elapsed: float) -> tuple[Pace, float]:
    """Return the pace of extraction when it is warm, and the seconds of everything else."""
    (phase,) = meter.of("extract")
    border = len(phase.times) - len(sample.manifests["test"].shards)
    pace = Pace.of(phase.piece(min(1, border - 1), border), phase.piece(border))
    before = sum(sum(p.counts) for p in (*meter.of("sample"), *meter.of("measure")))
    done = phase.piece()
    return pace, max(0.0, elapsed - pace.seconds(done.shards, done.images + before))


def _whole_width(options: RepresentationOptions, found: int, fitted: int, width: int) -> int:
    """Return the numbers per image of the full data set; the most, if fidelity decides."""
    return components_of(options.reduce, fitted, width) if options.reduce.by_components else found


def _fit_seconds(images: int, width: int, components: int) -> float:
    """Estimate, on noise, the seconds to fit the principal components of the full data set."""
    timed = min(width, TIMED_WIDTH)
    noise = torch.randn(images, timed)
    began = time.perf_counter()
    fit_pca(noise, min(components, timed), seed=0)
    return (time.perf_counter() - began) * width / timed


def _stored_bytes(
    stored: StoredFeature, width: int, itemsize: int, sample: TrialSample, views: int
) -> int:
    """Return the bytes of all chunks, of which the last is padded, identities and the basis."""
    rows = 0
    for images in (*sample.images.values(), *[sample.images["train"]] * views):
        chunk = chunk_rows(min(sample.samples_per_shard, images), width, itemsize)
        rows += chunk * math.ceil(images / chunk)
    basis = _size_below(stored.path / "reduction") * width / stored.width
    identities = IDENTITY_BYTES * (sample.total + views * sample.images["train"])
    return rows * width * itemsize + identities + int(basis)


def _size_below(path: object) -> int:
    return sum(f.stat().st_size for f in Path(str(path)).rglob("*") if f.is_file())


def training_cost(
    run: Run,
    few: SplitData,
    sample: TrialSample,
    *,
    memory_share: float,
    work: Path,
    progress: Progress | None = None,
) -> TrainingCost:
    """Train on the sample for a few epochs, on one device; `run` has its shards and features.

    A run on `few`, the sample's test split, has smaller batches and fewer images: comparing both
    separates what a step and a validation cost from what an image in them does.
    """
    smaller = replace(run, train=few, validation=few)
    epoch = _epoch(run, work / "large", progress, is_warm=False)
    is_warm = _batch_of(smaller) == epoch.batch
    short = _epoch(smaller, work / "small", progress, is_warm=is_warm)
    per_image = (epoch.validation - short.validation) / (
        run.validation.valid_samples - few.valid_samples
    )
    per_image = max(0.0, per_image)
    fixed = max(0.0, epoch.validation - per_image * run.validation.valid_samples)
    whole = sample.images
    held_out = whole.get("validation", 0)
    batch = run.options.batch_size
    step = _step_seconds(epoch, short, batch)
    seconds = whole["train"] / batch * step + fixed + held_out * per_image
    resident = _resident_bytes(run, whole["train"] + held_out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    fits = resident <= memory_share * _available_bytes()
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    host = peak + (resident if fits else 0)
    return TrainingCost(seconds, step / batch, host, gpu, resident)


@dataclass(frozen=True)
class _Epoch:
    """Seconds of a step with `batch` images, and of the rest of an epoch: its validation."""

    batch: int
    step: float
    validation: float


def _step_seconds(large: _Epoch, small: _Epoch, batch: int) -> float:
    """Return the seconds of a step with `batch` images, from two with fewer."""
    per_image = (large.step - small.step) / max(1, large.batch - small.batch)
    if large.batch <= small.batch or not 0 < per_image < large.step / large.batch:
        per_image = large.step / large.batch
    return large.step + (batch - large.batch) * per_image


def _batch_of(run: Run) -> int:
    """Return the batch size of a measured run, which has at least two batches if it can."""
    return max(2, min(run.options.batch_size, run.train.valid_samples // 2))


def _epoch(run: Run, work: Path, progress: Progress | None, *, is_warm: bool) -> _Epoch:
    """Train, and return the times of an epoch.

    Before the first one that counts, others warm up, unless a run with batches of this size has.
    """
    from pipeline.training.fit import fit  # Lightning takes seconds to import

    batch, before = _batch_of(run), 0 if is_warm else WARM_UP_EPOCHS
    options = run.options.model_copy(
        update={
            "epochs": before + 1,
            "batch_size": batch,
            "schedule": run.options.schedule.model_copy(
                update={"kind": "constant", "warmup_epochs": 0.0, "hold_epochs": 0.0}
                | {"milestones": (), "final_lr": 0.0}
            ),
            "loading": run.options.loading.model_copy(update={"mode": "resident"}),
            "parallel": ParallelOptions(accelerator=run.options.parallel.accelerator),
        }
    )
    times = fit(replace(run, options=options), work=work, progress=PaceMeter(progress))
    (counted,) = times[before:]
    return _Epoch(batch, counted.step_seconds / counted.steps, counted.rest_seconds)


def _resident_bytes(run: Run, images: int) -> int:
    pixels = BatchPixels(run.train, run.random_views(TRAINING), seed=run.seed)
    return images * bytes_in_memory(run.train, pixels) // run.train.valid_samples


def _available_bytes() -> int:
    return int(psutil.virtual_memory().available)
