"""`mvmr plan`: estimate the cost of the active experiment before it is started."""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from pipeline.base.progress import Progress
from pipeline.base.timing import saved_seconds
from pipeline.datasets.source import SPLITS, Source
from pipeline.datasets.split import cut
from pipeline.features.store import FeatureStore, StoredFeature
from pipeline.loading.batch import SplitData
from pipeline.planning.cost import (
    FeatureCost,
    TrainingCost,
    extraction_cost,
    training_cost,
)
from pipeline.planning.stored_rows import stored_rows
from pipeline.planning.trial_sample import TrialSample, sample_of
from pipeline.shards.packing import PackingPlan, packed_manifests, plan_packing
from pipeline.training.fit import Run
from stages.experiment.chosen import Chosen
from stages.experiment.freshness import provenance
from stages.experiment.paths import DatasetLayout, dataset_layout, other_stores
from stages.experiment.requirements import require_enough
from stages.experiment.schema import Experiment
from stages.terminal import proposal
from stages.terminal.announcement import announce, source_name
from stages.terminal.console import Screen, table
from stages.terminal.result import Result, megabytes

FEW_IMAGES = 256  # below which fixed costs are counted per image


def plan(screen: Screen, *, chosen: Chosen, data: str, images: int) -> Result:
    """Measure a few images on this machine, and estimate the cost of the whole experiment.

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
    measured_images = min(images, len(splits["train"]))
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
    values = _values(experiment, sample, costs, training, measured_images)
    for name, rows in there.items():
        values["features"][name]["stored_rows"] = rows
    return Result(
        {**values, "changes": str(packing.changes) if packing else ""},
        [
            *_shown(experiment, sample, costs, training, measured_images),
            *_changed(packing, there, total, costs),
        ],
        ["dvc", "repro"] if proposal.is_of_params() else ["mvmr", "shard"],
    )


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
        rows.append([name, str(cost.width), megabytes(cost.bytes), speed, _time(cost.seconds)])
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
