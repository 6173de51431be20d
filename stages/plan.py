"""`mvmr plan`: what the active experiment will cost, before it is started."""

import tempfile
from pathlib import Path

import click

from pipeline.datasets.split import cut
from pipeline.loading.batch import SplitData
from pipeline.planning import (
    FeatureCost,
    Sample,
    TrainingCost,
    extraction_cost,
    sample_of,
    training_cost,
)
from pipeline.store import StoredFeature
from pipeline.training.fit import Run
from stages.console import table
from stages.experiment import Experiment, load
from stages.options import console, experiment_options

IMAGES = 1536


@click.command("plan")
@experiment_options
@click.option(
    "--images",
    type=click.IntRange(min=24),
    default=IMAGES,
    show_default=True,
    help="Measure on so many images; fewer for a large network on a slow machine.",
)
def command(config: Path, assignments: tuple[str, ...], quiet: bool, images: int) -> None:
    """Measure a few images on this machine, and say what the whole will take."""
    experiment = load(config, assignments)
    screen = console(quiet=quiet)
    dataset = experiment.dataset
    source = dataset.source.open()
    splits = cut(source, dataset.split)
    with tempfile.TemporaryDirectory(prefix="mvmr-plan-") as root:
        sample = sample_of(source, splits, dataset.shards, count=images, root=Path(root))
        measured = {
            name: extraction_cost(sample, name, options, dataset.image)
            for name, options in experiment.features.items()
        }
        costs = {name: cost for name, (cost, _) in measured.items()}
        stored = {name: feature for name, (_, feature) in measured.items()}
        counts = ", ".join(f"{count} {split}" for split, count in sample.images.items())
        screen.print(f"{experiment.name}: {counts} images; measured on {images} at most.")
        rows = _stored_rows(sample, costs)
        screen.print(table("On disk", ["", "numbers", "MB", "images/s", "time"], rows))
        training = _training(experiment, sample, stored)
    if training is not None and experiment.train is not None:
        epochs = experiment.train.epochs
        before = sample.cost.seconds + sum(cost.seconds for cost in costs.values())
        screen.print(table("Training", ["", ""], _training_rows(training, epochs, before)))
        screen.print(_saving(experiment, sample, costs), highlight=False)


def _training(
    experiment: Experiment, sample: Sample, stored: dict[str, StoredFeature]
) -> TrainingCost | None:
    if experiment.train is None or experiment.objective is None:
        return None
    image = experiment.dataset.image
    targets = {name: stored[name] for name in experiment.targets()}
    train, validation = (
        SplitData(sample.root / "shards" / split, sample.manifests[split], targets, image)
        for split in ("train", "validation")
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
    return training_cost(run, sample, memory_share=share, work=sample.root / "run")


def _stored_rows(sample: Sample, costs: dict[str, FeatureCost]) -> list[list[str]]:
    total = sum(sample.images.values())
    shards = sample.cost
    rate = total / shards.seconds
    rows = [["shards", "", _megabytes(shards.bytes), f"{rate:.0f}", _time(shards.seconds)]]
    for name, cost in costs.items():
        speed = f"{cost.images_per_second:.3g}"
        rows.append([name, str(cost.width), _megabytes(cost.bytes), speed, _time(cost.seconds)])
    size = shards.bytes + sum(cost.bytes for cost in costs.values())
    seconds = shards.seconds + sum(cost.seconds for cost in costs.values())
    return [*rows, ["together", "", _megabytes(size), "", _time(seconds)]]


def _training_rows(training: TrainingCost, epochs: int, before: float) -> list[list[str]]:
    whole = epochs * training.epoch_seconds
    rows = [
        ["an epoch, with its validation", _time(training.epoch_seconds)],
        [f"{epochs} epochs", _time(whole)],
        ["from images to the trained encoder", _time(before + whole)],
        ["memory", f"{_megabytes(training.host_bytes)} MB"],
        ["images and targets, where kept in memory", f"{_megabytes(training.resident_bytes)} MB"],
    ]
    if training.gpu_bytes:
        rows.append(["memory of the GPU", f"{_megabytes(training.gpu_bytes)} MB"])
    return rows


def _saving(experiment: Experiment, sample: Sample, costs: dict[str, FeatureCost]) -> str:
    """Say what computing the targets in every epoch would take, on all cores, and what is saved."""
    targets = [costs[name] for name in experiment.targets()]
    if not targets or experiment.train is None:
        return "The objective reads nothing from the store, so caching saves nothing."
    images = sample.images["train"] * experiment.train.epochs
    anew = sum(images / cost.images_per_second for cost in targets)
    once = sum(cost.seconds for cost in targets)
    return (
        f"Computing the targets in every epoch would take {_time(anew)}; once takes {_time(once)}. "
        f"Caching saves {_time(max(0.0, anew - once))} in this run, and {_time(anew)} in each "
        "later one."
    )


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f}"


def _time(seconds: float) -> str:
    """Return a duration in the largest unit that it fills."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"
