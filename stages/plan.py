"""`mvmr plan`: estimate the cost of the active experiment before it is started."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType

from pipeline.base.devices import device_from
from pipeline.base.progress import Progress, Silent
from pipeline.base.text import counted
from pipeline.base.timing import saved_seconds
from pipeline.datasets.source import SPLITS, Source
from pipeline.datasets.split import cut
from pipeline.features.store import FeatureStore, StoredFeature
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import SplitData
from pipeline.models.encoder import Encoder, build_encoder
from pipeline.planning.cost import (
    FeatureCost,
    TrainingCost,
    extraction_cost,
    training_cost,
)
from pipeline.planning.stage_costs import (
    ScoringRates,
    drawing_seconds,
    operations_a_second,
    scoring_seconds,
    stage_start,
    start_seconds,
)
from pipeline.planning.stored_rows import stored_rows
from pipeline.planning.trial_sample import TrialSample, sample_of
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.packing import PackingPlan, packed_manifests, plan_packing
from pipeline.training.fit import Run
from stages.experiment.chosen import Chosen
from stages.experiment.freshness import provenance
from stages.experiment.paths import DatasetLayout, dataset_layout, other_stores
from stages.experiment.requirements import require_enough, require_files
from stages.experiment.schema import Experiment
from stages.experiment.state import states
from stages.terminal import proposal
from stages.terminal.announcement import announce, source_name
from stages.terminal.console import Screen, table
from stages.terminal.result import Result, megabytes

FEW_IMAGES, MOST_IMAGES = 96, 256  # to measure; below, fixed costs are counted per image
MEASURED_SHARE = 12
EMBEDDED = 32  # images in a batch by which the encoder is timed


def plan(screen: Screen, *, chosen: Chosen, data: str, images: int | None) -> Result:
    """Measure a few images on this machine, and estimate what `dvc repro` takes, by stages.

    Of what is packed and stored already, only the rest is counted.
    """
    experiment, progress = chosen.experiment, screen.progress
    dataset = experiment.dataset
    announce(
        screen,
        "plan",
        experiment,
        reads=[source_name(dataset.source)],
        writes=[],
        student=True,
        objective=True,
        device=True,
    )
    layout = dataset_layout(dataset.name, data)
    progress.start("list images", 0, "")
    source = dataset.source.open_again(layout.listings)
    packing = _packing(experiment, source, layout, progress)
    if packing is not None:
        splits = packing.items
    else:
        # The names stand in for the contents, which are not read: shares are the same.
        names = {item.name: item.name for items in source.splits.values() for item in items}
        splits = cut(source, dataset.split, names)
    require_enough(experiment, len(splits["train"]))
    require_files(_to_compute(experiment, layout))
    few = min(MOST_IMAGES, max(FEW_IMAGES, len(splits["train"]) // MEASURED_SHARE))
    images = images or few
    measured_images = min(images, len(splits["train"]))
    progress.start("measure the start of a process", 0, "")
    start = start_seconds()
    with tempfile.TemporaryDirectory(prefix="mvmr-plan-") as root:
        sample = sample_of(
            source, splits, dataset.shards, count=images, root=Path(root), progress=progress
        )
        measured = {
            name: extraction_cost(sample, name, options, dataset.image, progress=progress)
            for name, options in experiment.features.items()
        }
        there = _there(experiment, packing, layout, progress)
        total = sum(map(len, splits.values()))
        costs = {
            name: replace(cost, seconds=cost.seconds * (1 - there[name] / total))
            for name, (cost, _) in measured.items()
        }
        stored = {name: feature for name, (_, feature) in measured.items()}
        training = _training(experiment, sample, stored, progress)
        stages = _forecast(experiment, data, sample, costs, training, source, start)
    values = _values(experiment, sample, costs, training, measured_images)
    values |= {"stages": stages, "seconds": sum(stages.values())}
    for name, rows in there.items():
        values["features"][name]["stored_rows"] = rows
    return Result(
        {**values, "changes": str(packing.changes) if packing else ""},
        [
            *_shown(experiment, sample, costs, training, measured_images),
            table("What dvc repro will do", ["", "time"], _stage_rows(stages)),
            *_changed(packing, there, total, costs),
        ],
        ["dvc", "repro"] if proposal.is_of_params() else ["mvmr", "shard"],
    )


def _to_compute(experiment: Experiment, layout: DatasetLayout) -> dict[str, RepresentationOptions]:
    """Return the features that no store has, whatever they were made with."""
    store = FeatureStore(layout.features)
    return {name: o for name, o in experiment.features.items() if name not in store}


def _forecast(
    experiment: Experiment,
    data: str,
    sample: TrialSample,
    costs: dict[str, FeatureCost],
    training: TrainingCost | None,
    source: Source,
    start: float,
) -> dict[str, float]:
    """Return the seconds of each stage that is not done."""
    image = experiment.dataset.image
    encoder = build_encoder(
        experiment.student, channels=image.channels, size=image.size, seed=experiment.seed
    )
    widths = {
        "student": encoder.h_width,
        "untrained": encoder.h_width,
        "pixels": image.channels * image.size**2,
        **{name: cost.width for name, cost in costs.items()},
    }
    rates = ScoringRates(_embedding_seconds(encoder, image), operations_a_second())
    work = {"shard": sample.cost.seconds, "select": 0.0, "report": 0.0}
    work |= {f"extract@{name}": cost.seconds for name, cost in costs.items()}
    step = training.image_seconds if training else 0.0
    if training is not None and experiment.train is not None:
        work["train"] = experiment.train.epochs * training.epoch_seconds
    for name, options in experiment.evaluate.items():
        work[f"evaluate@{name}"] = scoring_seconds(
            options,
            images={str(split): count for split, count in sample.images.items()},
            widths=widths,
            classes=len(source.classes or ()),
            encoders=3 if experiment.student.weights and experiment.train else 2,
            rates=rates,
            step_seconds=step,
        )
    work["report"] = drawing_seconds([*sample.images.values()][-1])
    done = {s.stage for s in states(experiment, data, Silent()) if s.condition == "done"}
    todo = ["source", *(s for s in _in_order(experiment) if s not in done), "keep"]
    return {stage: work.get(stage, 0.0) + stage_start(stage, start) for stage in todo}


def _in_order(experiment: Experiment) -> list[str]:
    extracted = [f"extract@{name}" for name in experiment.features]
    scored = [f"evaluate@{name}" for name in experiment.evaluate]
    return ["shard", *extracted, "select", "train", *scored, "report"]


def _embedding_seconds(encoder: Encoder, image: ImageOptions) -> float:
    """Return the seconds that an encoder takes for an image, on the device that is there."""
    device = device_from("auto")
    network = encoder.to(device).eval()
    batch = torch.zeros(EMBEDDED, image.channels, image.size, image.size, device=device)
    with torch.inference_mode():
        network.features(batch).sum().item()  # the first time, memory is allocated
        began = time.perf_counter()
        network.features(batch).sum().item()
    return (time.perf_counter() - began) / EMBEDDED


def _stage_rows(stages: dict[str, float]) -> list[list[str]]:
    rows = [[stage, _time(seconds)] for stage, seconds in stages.items()]
    return [*rows, ["together", _time(sum(stages.values()))]]


def _packing(
    experiment: Experiment, source: Source, layout: DatasetLayout, progress: Progress
) -> PackingPlan | None:
    """Return what bringing the shards up to date would do, or None if there are none."""
    if not packed_manifests(layout.shards):
        return None
    return plan_packing(
        source,
        layout.shards,
        split=experiment.dataset.split,
        options=experiment.dataset.shards,
        provenance=provenance(experiment.dataset),
        progress=progress,
    )


def _there(
    experiment: Experiment,
    packing: PackingPlan | None,
    layout: DatasetLayout,
    progress: Progress,
) -> dict[str, int]:
    """Return the number of rows of each feature that need not be computed."""
    if packing is None:
        return dict.fromkeys(experiment.features, 0)
    progress.start("look for stored rows", 0, "")
    stores = [FeatureStore(place) for place in (layout.features, *other_stores(layout))]
    wanted = packing.identities.values()
    return {
        name: stored_rows(options, experiment.dataset.image, wanted, stores)
        for name, options in experiment.features.items()
    }


def _changed(
    packing: PackingPlan | None, there: dict[str, int], total: int, costs: dict[str, FeatureCost]
) -> Iterator[str]:
    """Say what has changed, what is stored already, and what is written in its place."""
    if packing is None:
        return
    if str(packing.changes):
        yield f"Since they were packed, images have changed: {packing.changes}."
    if packing.anew:
        yield "All images will be packed anew, next to the shards that are there until then."
    for name, rows in there.items():
        if rows:
            yield (
                f"{name}: {rows:,} of {total:,} rows are stored, {total - rows:,} are to be "
                "computed."
            )
    if any(0 < rows < total for rows in there.values()):
        size = megabytes(sum(costs[name].bytes for name, rows in there.items() if 0 < rows < total))
        yield (
            f"Features that grow are written anew ({size} MB) and replace the older ones when they "
            "are complete."
        )


def _values(
    experiment: Experiment,
    sample: TrialSample,
    costs: dict[str, FeatureCost],
    training: TrainingCost | None,
    measured: int,
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "images": dict(sample.images),
        "measured_images": measured,
        "shards": asdict(sample.cost),
        "features": {name: asdict(cost) for name, cost in costs.items()},
        "bytes": sample.cost.bytes + sum(cost.bytes for cost in costs.values()),
        "seconds_before_training": sample.cost.seconds + sum(c.seconds for c in costs.values()),
    }
    if training is not None and experiment.train is not None:
        seconds = experiment.train.epochs * training.epoch_seconds
        values["training"] = {
            **asdict(training),
            "epochs": experiment.train.epochs,
            "seconds": seconds,
        }
    return values


def _shown(
    experiment: Experiment,
    sample: TrialSample,
    costs: dict[str, FeatureCost],
    training: TrainingCost | None,
    measured: int,
) -> Iterator[RenderableType]:
    counts = ", ".join(f"{count:,} {split}" for split, count in sample.images.items())
    yield f"{experiment.name}: {counts} images; measured on {measured:,} of them."
    if measured < FEW_IMAGES:
        yield (
            "So few images do not separate fixed costs from those that grow with the images: all "
            f"times are upper bounds. Measure on {FEW_IMAGES} or more, if there are that many."
        )
    yield table("On disk", ["", "numbers", "MB", "images/s", "time"], _stored_rows(sample, costs))
    yield from _reduced(sample)
    if training is not None and experiment.train is not None:
        before = sample.cost.seconds + sum(cost.seconds for cost in costs.values())
        rows = _training_rows(training, experiment.train.epochs, before)
        yield table("Training", ["", ""], rows)
        yield _saving(experiment, sample, costs)


def _training(
    experiment: Experiment,
    sample: TrialSample,
    stored: dict[str, StoredFeature],
    progress: Progress,
) -> TrainingCost | None:
    if experiment.train is None or experiment.objective is None:
        return None
    image = experiment.dataset.image
    targets = {name: stored[name] for name in experiment.targets()}
    train, validation, few = (
        SplitData(sample.root / "shards" / split, sample.manifests[split], targets, image)
        for split in SPLITS
    )
    run = Run(
        train=train,
        validation=validation,
        student=experiment.student.model_copy(update={"weights": None}),
        objective=experiment.objective,
        live={name: options.build(image) for name, options in experiment.live().items()},
        options=experiment.train,
        seed=experiment.seed,
        about={},
    )
    share = experiment.train.loading.memory_share
    return training_cost(
        run, few, sample, memory_share=share, work=sample.root / "run", progress=progress
    )


def _stored_rows(sample: TrialSample, costs: dict[str, FeatureCost]) -> list[list[str]]:
    total = sum(sample.images.values())
    shards = sample.cost
    rate = total / shards.seconds
    rows = [["shards", "", megabytes(shards.bytes), f"{rate:.0f}", _time(shards.seconds)]]
    for name, cost in costs.items():
        speed = f"{cost.images_per_second:.3g}"
        label = f"{name}, {counted(cost.views, 'views')} too" if cost.views else name
        rows.append([label, str(cost.width), megabytes(cost.bytes), speed, _time(cost.seconds)])
    size = shards.bytes + sum(cost.bytes for cost in costs.values())
    seconds = shards.seconds + sum(cost.seconds for cost in costs.values())
    return [*rows, ["together", "", megabytes(size), "", _time(seconds)]]


def _training_rows(training: TrainingCost, epochs: int, before: float) -> list[list[str]]:
    whole = epochs * training.epoch_seconds
    rows = [
        ["an epoch, with its validation", _time(training.epoch_seconds)],
        [f"{epochs} epochs", _time(whole)],
        ["from images to the trained encoder", _time(before + whole)],
        ["memory", f"{megabytes(training.host_bytes)} MB"],
        ["images and targets, where kept in memory", f"{megabytes(training.resident_bytes)} MB"],
    ]
    if training.gpu_bytes:
        rows.append(["memory of the GPU", f"{megabytes(training.gpu_bytes)} MB"])
    return rows


def _reduced(sample: TrialSample) -> Iterator[str]:
    if saved := sample.cost.saved:
        yield f"Storing large images reduced makes the shards {megabytes(saved)} MB smaller."


def _saving(experiment: Experiment, sample: TrialSample, costs: dict[str, FeatureCost]) -> str:
    """Return how much time reading the targets saves, as the report does afterwards."""
    targets = [costs[name] for name in experiment.targets()]
    if not targets or experiment.train is None:
        return "The objective reads nothing from the store, so caching saves nothing."
    images = sample.images["train"] + sample.images["validation"]
    epochs = experiment.train.epochs
    saved = sum(
        saved_seconds(images, epochs=epochs, images_per_second=cost.images_per_second)
        for cost in targets
    )
    return (
        f"Caching saves {_time(saved)} in this run: computing the targets again in each of the "
        f"{epochs - 1} epochs after the first would take that long."
    )


def _time(seconds: float) -> str:
    """Return a duration in the largest unit that it fills."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"
