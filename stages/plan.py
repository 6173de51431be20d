"""`mvmr plan`: estimate the cost of the active experiment before it is started."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from rich.console import RenderableType

from pipeline.base.progress import Progress, Silent
from pipeline.base.text import counted
from pipeline.base.timing import saved_seconds
from pipeline.datasets.source import Source
from pipeline.datasets.split import cut
from pipeline.features.store import FeatureStore
from pipeline.planning.cost import TrainingCost
from pipeline.planning.stored_rows import stored_rows
from pipeline.planning.trial_sample import TrialSample
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.packing import PackingPlan, packed_manifests, plan_packing
from stages.experiment.chosen import Chosen
from stages.experiment.freshness import provenance
from stages.experiment.paths import DatasetLayout, dataset_layout, other_stores
from stages.experiment.requirements import require_enough, require_files
from stages.experiment.schema import Experiment
from stages.experiment.state import states
from stages.steps.measure_costs import FEW_IMAGES, Costs, images_to_measure, trial
from stages.terminal import proposal
from stages.terminal.announcement import announce, source_name
from stages.terminal.console import Screen, table
from stages.terminal.result import Result, everyday_time, megabytes


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
    images = images or images_to_measure(len(splits["train"]))
    measured = min(images, len(splits["train"]))
    with trial(experiment, source, splits, images=images, progress=progress) as tried:
        costs = tried.costs(experiment)
        there = _there(experiment, packing, layout, progress)
        costs = _without(costs, there)
        done = {s.stage for s in states(experiment, data, Silent()) if s.condition == "done"}
        forecast = tried.stage_seconds(experiment, costs)
    stages = {stage: seconds for stage, seconds in forecast.items() if stage not in done}
    values = _values(experiment, costs, measured)
    values |= {"stages": stages, "seconds": sum(stages.values())}
    for name, rows in there.items():
        values["features"][name]["stored_rows"] = rows
    return Result(
        {**values, "changes": str(packing.changes) if packing else ""},
        [
            *_shown(experiment, costs, measured),
            table("What dvc repro will do", ["", "time"], _stage_rows(stages)),
            *_changed(packing, there, costs, packs="shard" in stages),
        ],
        ["dvc", "repro"] if proposal.is_of_params() else ["mvmr", "shard"],
    )


def _to_compute(experiment: Experiment, layout: DatasetLayout) -> dict[str, RepresentationOptions]:
    """Return the features that no store has, whatever they were made with."""
    store = FeatureStore(layout.features)
    return {name: o for name, o in experiment.features.items() if name not in store}


def _without(costs: Costs, there: Mapping[str, int]) -> Costs:
    """Return the costs without those of rows that need not be computed."""
    features = {
        name: replace(cost, seconds=cost.seconds * (1 - there[name] / _rows(costs, name)))
        for name, cost in costs.features.items()
    }
    return replace(costs, features=features)


def _rows(costs: Costs, name: str) -> int:
    """Return the rows of a feature: of all images, and of views of those of training."""
    sample = costs.sample
    return sample.total + costs.features[name].views * sample.images["train"]


def _stage_rows(stages: dict[str, float]) -> list[list[str]]:
    rows = [[stage, everyday_time(seconds)] for stage, seconds in stages.items()]
    return [*rows, ["together", everyday_time(sum(stages.values()))]]


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
    wanted = packing.contents
    training = [wanted[item.name] for item in packing.items["train"]]
    return {
        name: stored_rows(options, experiment.dataset.image, wanted.values(), training, stores)
        for name, options in experiment.features.items()
    }


def _changed(
    packing: PackingPlan | None, there: Mapping[str, int], costs: Costs, *, packs: bool
) -> Iterator[str]:
    """Say what has changed, what is stored already, and what is written in its place."""
    if packing is None:
        return
    grown, totals = costs.features, {name: _rows(costs, name) for name in there}
    if str(packing.changes):
        yield f"Since they were packed, images have changed: {packing.changes}."
    if packing.anew and packs:
        yield "All images will be packed anew, next to the shards that are there until then."
    for name, rows in there.items():
        total = totals[name]
        if rows:
            yield (
                f"{name}: {rows:,} of {total:,} rows are stored, {total - rows:,} are to be "
                "computed."
            )
    some = [name for name, rows in there.items() if 0 < rows < totals[name]]
    if some:
        size = megabytes(sum(grown[name].bytes for name in some))
        yield (
            f"Features that grow are written anew ({size} MB) and replace the older ones when they "
            "are complete."
        )


def _values(experiment: Experiment, costs: Costs, measured: int) -> dict[str, Any]:
    sample, training = costs.sample, costs.training
    values: dict[str, Any] = {
        "images": dict(sample.images),
        "measured_images": measured,
        "shards": asdict(sample.cost),
        "features": {name: asdict(cost) for name, cost in costs.features.items()},
        "bytes": sample.cost.bytes + sum(cost.bytes for cost in costs.features.values()),
        "seconds_before_training": costs.seconds_before_training,
    }
    if training is not None and experiment.train is not None:
        seconds = experiment.train.epochs * costs.epoch_seconds
        values["training"] = {
            **asdict(training),
            **({"control_epoch_seconds": costs.control.epoch_seconds} if costs.control else {}),
            "epochs": experiment.train.epochs,
            "views": experiment.train.views.model_dump(mode="json"),
            "seconds": seconds,
        }
    return values


def _shown(experiment: Experiment, costs: Costs, measured: int) -> Iterator[RenderableType]:
    sample, training = costs.sample, costs.training
    counts = ", ".join(f"{count:,} {split}" for split, count in sample.images.items())
    yield f"{experiment.name}: {counts} images; measured on {measured:,} of them."
    if measured < FEW_IMAGES:
        yield (
            "So few images do not separate fixed costs from those that grow with the images: all "
            f"times are upper bounds. Measure on {FEW_IMAGES} or more, if there are that many."
        )
    yield table("On disk", ["", "numbers", "MB", "images/s", "time"], _stored_rows(costs))
    yield from _reduced(sample)
    if training is not None and experiment.train is not None:
        epochs = experiment.train.epochs
        rows = [*_view_rows(experiment), *_training_rows(costs, training, epochs)]
        yield table("Training", ["", ""], rows)
        yield _saving(experiment, costs)


def _stored_rows(costs: Costs) -> list[list[str]]:
    sample = costs.sample
    shards, rate = sample.cost, sample.total / sample.cost.seconds
    rows = [["shards", "", megabytes(shards.bytes), f"{rate:.0f}", everyday_time(shards.seconds)]]
    for name, cost in costs.features.items():
        speed = f"{cost.images_per_second:.3g}"
        label = f"{name}, {counted(cost.views, 'views')} too" if cost.views else name
        rows.append(
            [label, str(cost.width), megabytes(cost.bytes), speed, everyday_time(cost.seconds)]
        )
    size = shards.bytes + sum(cost.bytes for cost in costs.features.values())
    time = everyday_time(costs.seconds_before_training)
    return [*rows, ["together", "", megabytes(size), "", time]]


def _view_rows(experiment: Experiment) -> Iterator[list[str]]:
    if experiment.train is not None and experiment.train.views.local is not None:
        yield ["views", experiment.train.views.told(experiment.dataset.image.size)]


def _training_rows(costs: Costs, training: TrainingCost, epochs: int) -> list[list[str]]:
    control, whole = costs.control, epochs * training.epoch_seconds
    rows = [
        ["an epoch, with its validation", everyday_time(training.epoch_seconds)],
        [f"{epochs} epochs", everyday_time(whole)],
    ]
    if control is not None:
        beside = everyday_time(epochs * control.epoch_seconds)
        rows.append([f"{epochs} epochs of the control with labels", beside])
    together = costs.seconds_before_training + epochs * costs.epoch_seconds
    rows += [
        ["from images to the trained encoder", everyday_time(together)],
        ["memory", f"{megabytes(training.host_bytes)} MB"],
        ["images and targets, where kept in memory", f"{megabytes(training.resident_bytes)} MB"],
    ]
    if training.gpu_bytes:
        rows.append(["memory of the GPU", f"{megabytes(training.gpu_bytes)} MB"])
    return rows


def _reduced(sample: TrialSample) -> Iterator[str]:
    if saved := sample.cost.saved:
        yield f"Storing large images reduced makes the shards {megabytes(saved)} MB smaller."


def _saving(experiment: Experiment, costs: Costs) -> str:
    """Return how much time reading the targets saves, as the report does afterwards."""
    sample, targets = costs.sample, [costs.features[name] for name in experiment.targets()]
    if not targets or experiment.train is None:
        return "The objective reads nothing from the store, so caching saves nothing."
    images = sample.images["train"] + sample.images["validation"]
    epochs = experiment.train.epochs
    saved = sum(
        saved_seconds(images, epochs=epochs, images_per_second=cost.images_per_second)
        for cost in targets
    )
    return (
        f"Caching saves {everyday_time(saved)} in this run, in which targets would otherwise be "
        f"computed again in {counted(epochs - 1, 'epochs')} after the first."
    )
