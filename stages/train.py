"""`mvmr train`: train the student on images and cached targets."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import click
import torch
from rich.console import Console

from pipeline.checkpoints import BEST, LAST, load_checkpoint, save_checkpoint
from pipeline.config import digest
from pipeline.datasets.base import Split
from pipeline.errors import ConfigError, DataError, TrainingError
from pipeline.extraction.fingerprint import check_features
from pipeline.loading.batch import SplitData
from pipeline.runtime import atomic_path, exclusive, remove_tree, sha256_of, write_json
from pipeline.shards import read_manifests
from pipeline.store import FeatureStore, StoredFeature
from pipeline.training.fit import CURVES, RESUME, TENSORBOARD, Run, fit
from pipeline.training.start import given_checkpoint
from stages.console import ConsoleProgress
from stages.experiment import Experiment, load
from stages.layout import (
    RunLayout,
    dataset_layout,
    run_layout,
    starting_weights,
    unfinished_run,
)
from stages.options import console, experiment_options


@click.command("train")
@experiment_options
def command(config: Path, assignments: tuple[str, ...], quiet: bool) -> None:
    """Train the student; an interrupted run of the same experiment is continued."""
    experiment = load(config, assignments)
    screen = console(quiet=quiet)
    if experiment.train is None or experiment.objective is None:
        _take_over(experiment, screen)
        return
    layout = run_layout(experiment.name)
    features = _targets(experiment)
    train, validation = (_split(experiment, s, features) for s in ("train", "validation"))
    key = _digest(experiment, train, validation)
    run = Run(
        train=train,
        validation=validation,
        student=experiment.student,
        objective=experiment.objective,
        live={n: o.build(experiment.dataset.image) for n, o in experiment.live().items()},
        options=experiment.train,
        seed=experiment.seed,
        weights=_weights(experiment),
        about={
            "experiment": experiment.name,
            "digest": key,
            "seed": experiment.seed,
            "targets": {name: feature.digest for name, feature in features.items()},
            "torch": str(torch.__version__),
        },
    )
    work = unfinished_run(key)
    busy = TrainingError(f"Another process trains this experiment in {work}: wait for it.")
    with exclusive(work.with_suffix(".lock"), busy), ConsoleProgress(screen) as progress:
        if (work / RESUME).exists():
            progress.note(f"Continuing the interrupted run in {work}.")
        fit(run, work=work, progress=progress)
        _publish(work, layout)
    chosen = load_checkpoint(layout.checkpoints / BEST).about["selection"]
    write_json(layout.metrics / "training.json", chosen)
    screen.print(
        f"{layout.checkpoints / BEST}: epoch {chosen['epoch']}, {chosen['rule']} "
        f"{chosen['score']:.4g}. Next: mvmr evaluate"
    )


def _digest(experiment: Experiment, *splits: SplitData) -> str:
    """Return the SHA-256 of all that determines the run: sections, images, targets, weights."""
    weights = _weights(experiment)
    return digest(
        {
            "sections": experiment.training_sections(),
            "shards": [split.manifest.digest for split in splits],
            "targets": {name: f.digest for name, f in splits[0].features.items()},
            "weights": sha256_of(weights) if weights and weights.exists() else None,
        }
    )


def _take_over(experiment: Experiment, screen: Console) -> None:
    """Leave the given weights where a finished run would leave its own, and no curves."""
    layout, weights = run_layout(experiment.name), _weights(experiment)
    if weights is None:
        raise ConfigError("train is none, so student.weights must name a checkpoint or a run.")
    with ConsoleProgress(screen) as progress:
        image = experiment.dataset.image
        checkpoint = given_checkpoint(experiment.student, image, weights, progress=progress)
    remove_tree(layout.exports)  # they are of the checkpoint before
    for target in (layout.checkpoints, layout.logs):
        remove_tree(target)
        target.mkdir(parents=True)
    save_checkpoint(layout.checkpoints / BEST, checkpoint)
    with atomic_path(layout.curves) as temporary:
        temporary.write_text("epoch\n", encoding="utf-8")
    write_json(layout.metrics / "training.json", checkpoint.about["selection"])
    screen.print(f"{layout.checkpoints / BEST}: the weights of {weights}. Next: mvmr evaluate")


def _weights(experiment: Experiment) -> Path | None:
    name = experiment.student.weights
    return starting_weights(name) if name is not None else None


def _targets(experiment: Experiment) -> dict[str, StoredFeature]:
    layout = dataset_layout(experiment.dataset.name)
    return check_features(
        experiment.targets(),
        image=experiment.dataset.image,
        shards=layout.shards,
        store=FeatureStore(layout.features),
    )


def _split(
    experiment: Experiment, split: Split, features: Mapping[str, StoredFeature]
) -> SplitData:
    shards = dataset_layout(experiment.dataset.name).shards
    manifests = read_manifests(shards)
    if split not in manifests:
        raise DataError(
            f"There are no {split} images; training needs some to choose the best checkpoint by. "
            "Set dataset.split.validation to a share, such as 0.1, and run `mvmr shard --force`."
        )
    return SplitData(shards / split, manifests[split], features, experiment.dataset.image)


def _publish(work: Path, layout: RunLayout) -> None:
    """Put the results of a finished run where the experiment keeps them."""
    remove_tree(layout.exports)  # they are of the checkpoint before
    for target in (layout.checkpoints, layout.logs):
        remove_tree(target)
        target.mkdir(parents=True)
    for name in (BEST, LAST):
        shutil.copy2(work / name, layout.checkpoints / name)
    # By renaming: the older file may be a link into DVC's cache, which must not be written through.
    with atomic_path(layout.curves) as temporary:
        shutil.copyfile(work / CURVES, temporary)
    for file in sorted((work / TENSORBOARD).iterdir()):
        shutil.copy2(file, layout.logs / file.name)
    remove_tree(work)  # last: until here a killed process loses nothing
