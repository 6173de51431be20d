"""`mvmr train`: train the student on images and cached targets."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import click
import torch
from rich.console import Console

from pipeline.checkpoints import BEST, LAST, load_checkpoint, save_checkpoint
from pipeline.config import digest
from pipeline.datasets.base import Split
from pipeline.encoders import PRETRAINED
from pipeline.errors import DataError, TrainingError
from pipeline.loading.batch import SplitData
from pipeline.runtime import (
    Progress,
    atomic_path,
    exclusive,
    sha256_of,
    write_json,
)
from pipeline.shards import read_manifests
from pipeline.storage import Location, remove_tree
from pipeline.store import StoredFeature
from pipeline.timing import timed
from pipeline.training.fit import CURVES, Run, fit, tune
from pipeline.training.processes import is_first_process
from pipeline.training.saving import RESUME
from pipeline.training.start import given_checkpoint
from pipeline.training.trainer import TENSORBOARD
from stages.console import ConsoleProgress
from stages.experiment import Experiment, load
from stages.layout import (
    RunLayout,
    dataset_layout,
    run_layout,
    starting_weights,
    unfinished_run,
)
from stages.material import check_source, checked_features
from stages.options import console, data_option, experiment_options
from stages.times import training_record

TUNED = "tuned.json"


@click.command("train")
@experiment_options
@click.option("--auto-lr", is_flag=True, help="Find train.lr by trying, instead of the given one.")
@click.option("--auto-batch-size", is_flag=True, help="Find train.batch_size, likewise.")
@click.option("--force", is_flag=True, help="Train again, although nothing has changed.")
@data_option
def command(
    config: Path,
    assignments: tuple[str, ...],
    quiet: bool,
    data: str,
    auto_lr: bool,
    auto_batch_size: bool,
    force: bool,
) -> None:
    """Train the student; an interrupted run of the same experiment is continued."""
    experiment = load(config, assignments)
    screen = console(quiet=quiet or not is_first_process())
    if experiment.train is None or experiment.objective is None:
        _take_over(experiment, screen)
        return
    layout = run_layout(experiment.name)
    stored, watched = dataset_layout(experiment.dataset.name, data), ConsoleProgress(screen)
    check_source(experiment, stored, watched)
    features = checked_features(experiment, experiment.targets(), stored, watched)
    train, validation = (
        _split(experiment, s, features, stored.shards) for s in ("train", "validation")
    )
    wanted = {"lr": auto_lr, "batch_size": auto_batch_size}
    key = _digest(experiment, wanted, train, validation)
    if not force and is_first_process() and _is_finished(layout, key):
        screen.print(f"{layout.checkpoints / BEST} is up to date; --force trains again.")
        return
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
            "shards": {
                "dataset": experiment.dataset.name,
                **{data.manifest.split: data.manifest.digest for data in (train, validation)},
            },
            "targets": {name: feature.digest for name, feature in features.items()},
            "torch": str(torch.__version__),
        },
    )
    work = unfinished_run(key)
    records = [training_record(layout, key)] if is_first_process() else []
    with _alone(work), watched, timed(records, watched) as progress:
        if (work / RESUME).exists():
            progress.note(f"Continuing the interrupted run in {work}.")
        if any(wanted.values()):
            run = _tuned(run, wanted, work, progress)
        fit(run, work=work, progress=progress)
        if not is_first_process():
            return
        _publish(work, layout)
    about = load_checkpoint(layout.checkpoints / BEST).about
    chosen = about["selection"]
    tuned = {"tuned": about["tuned"]} if "tuned" in about else {}
    write_json(layout.training_metrics, {**chosen, **tuned})
    layout.predictions.mkdir(exist_ok=True)  # the report reads it, whatever is evaluated
    screen.print(
        f"{layout.checkpoints / BEST}: epoch {chosen['epoch']}, {chosen['rule']} "
        f"{chosen['score']:.4g}. Next: mvmr evaluate"
    )


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Keep other runs of the experiment out, but not the further processes of this one."""
    busy = TrainingError(f"Another process trains this experiment in {work}: wait for it.")
    with exclusive(work.with_suffix(".lock"), busy) if is_first_process() else nullcontext():
        yield


def _is_finished(layout: RunLayout, key: str) -> bool:
    """Whether the experiment's outputs are all there, and made from exactly what is asked."""
    outputs = (layout.checkpoints / LAST, layout.logs, layout.curves, layout.training_metrics)
    best = layout.checkpoints / BEST
    if not best.exists() or not all(path.exists() for path in outputs):
        return False
    return load_checkpoint(best).about.get("digest") == key


def _tuned(run: Run, wanted: Mapping[str, bool], work: Path, progress: Progress) -> Run:
    """Find what is wanted, or read what was found before the run was interrupted."""
    record = work / TUNED
    if not record.exists():
        options = tune(run, **wanted, progress=progress)
        write_json(record, {name: getattr(options, name) for name in wanted if wanted[name]})
    found = json.loads(record.read_text(encoding="utf-8"))
    about = {**run.about, "tuned": found}
    return replace(run, options=run.options.model_copy(update=found), about=about)


def _digest(experiment: Experiment, wanted: Mapping[str, bool], *splits: SplitData) -> str:
    """Return the SHA-256 of all that determines the run: sections, images, targets, weights."""
    weights = _weights(experiment)
    return digest(
        {
            "sections": experiment.training_sections(),
            "tuned": sorted(name for name in wanted if wanted[name]),
            "shards": [split.manifest.digest for split in splits],
            "targets": {name: f.digest for name, f in splits[0].features.items()},
            "weights": sha256_of(weights) if weights and weights.exists() else None,
        }
    )


def _take_over(experiment: Experiment, screen: Console) -> None:
    """Leave the given weights where a finished run would leave its own, and no curves."""
    layout, weights = run_layout(experiment.name), _weights(experiment)
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
    write_json(layout.training_metrics, checkpoint.about["selection"])
    layout.predictions.mkdir(exist_ok=True)  # the report reads it, whatever is evaluated
    given = experiment.student.weights
    screen.print(f"{layout.checkpoints / BEST}: the weights {given}. Next: mvmr evaluate")


def _weights(experiment: Experiment) -> Path | None:
    name = experiment.student.weights
    return None if name in (None, PRETRAINED) else starting_weights(name)


def _split(
    experiment: Experiment,
    split: Split,
    features: Mapping[str, StoredFeature],
    shards: Location,
) -> SplitData:
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
