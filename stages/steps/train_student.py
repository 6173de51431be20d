"""Training the student of an experiment, or putting back what was trained before."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.base.atomic import atomic_path, write_json
from pipeline.base.errors import DataError, TrainingError
from pipeline.base.locations import Location, remove_tree
from pipeline.base.locks import exclusive
from pipeline.base.processes import is_first_process
from pipeline.base.progress import Progress
from pipeline.base.timing import timed
from pipeline.datasets.source import Split
from pipeline.features.store import StoredFeature
from pipeline.loading.batch import SplitData
from pipeline.models.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from pipeline.shards.manifest import read_manifests
from pipeline.training.fit import CURVES, Run, fit, tune
from pipeline.training.run_loggers import publish_logs
from pipeline.training.saving import RESUME
from pipeline.training.start import given_checkpoint
from pipeline.training.trial import Wanted
from stages.experiment.dvc_stages import training_outs
from stages.experiment.finished import is_kept, keep, restore
from stages.experiment.freshness import checked_features
from stages.experiment.paths import DatasetLayout, RunLayout
from stages.experiment.run_identity import (
    TUNED,
    given_weights,
    is_finished,
    keep_training,
    run_key,
    tuned_values,
)
from stages.experiment.schema import Experiment
from stages.experiment.time_records import training_record

NOTHING = Wanted()


@dataclass(frozen=True)
class Trained:
    """The features that the training depends on, and whether it had been done before."""

    features: Mapping[str, StoredFeature]
    up_to_date: bool


def train_student(
    experiment: Experiment,
    stored: DatasetLayout,
    layout: RunLayout,
    progress: Progress,
    *,
    wanted: Wanted = NOTHING,
    force: bool = False,
) -> Trained | None:
    """Train the student, or continue an interrupted run of the same experiment.

    Returns None in all processes of a launch but the first, which alone writes results.
    """
    if experiment.train is None or experiment.objective is None:
        _take_over(experiment, layout, progress)
        return Trained({}, up_to_date=False)
    features = checked_features(experiment, experiment.targets(), stored, progress)
    train, validation = (
        _split(experiment, s, features, stored.shards) for s in ("train", "validation")
    )
    manifests = [train.manifest, validation.manifest]
    names = [name for name, asked in asdict(wanted).items() if asked]
    key = run_key(experiment, tuned=names, manifests=manifests, targets=features)
    if not force and (is_kept(key, layout) or is_finished(layout, key)):
        if not is_first_process():  # as every process of a launch
            return None
        _put_back(key, layout, progress)
        return Trained(features, up_to_date=True)
    run = Run(
        train=train,
        validation=validation,
        student=experiment.student,
        objective=experiment.objective,
        live={n: o.build(experiment.dataset.image) for n, o in experiment.live().items()},
        options=experiment.train,
        seed=experiment.seed,
        weights=given_weights(experiment),
        about={
            "experiment": experiment.name,
            "digest": key,
            "seed": experiment.seed,
            "shards": {
                "dataset": experiment.dataset.name,
                **{data.manifest.split: data.manifest.digest for data in (train, validation)},
            },
            "targets": {name: feature.digest for name, feature in features.items()},
            **_stored(experiment),
            "torch": str(torch.__version__),
        },
    )
    work = layout.unfinished(key)
    records = [training_record(layout, key)] if is_first_process() else []
    with _alone(work), timed(records, progress) as timing:
        if (work / RESUME).exists():
            timing.note(f"Continuing the interrupted run in {work}.")
        if wanted:
            run = _tuned(run, wanted, work, timing)
        fit(run, work=work, progress=timing)
        if not is_first_process():
            return None
        _publish(work, layout)
        keep(key, layout, training_outs(layout), what="train")
        remove_tree(work)  # last, so that a process killed before this loses nothing
    layout.predictions.mkdir(exist_ok=True)  # the report reads it, whichever protocols run
    return Trained(features, up_to_date=False)


def _stored(experiment: Experiment) -> dict[str, Any]:
    """Return how the images were stored, so that others can be embedded alike."""
    reduction = experiment.dataset.shards.reduction
    return {"reduction": reduction.model_dump(mode="json")} if reduction else {}


def _put_back(key: str, layout: RunLayout, progress: Progress) -> None:
    """Leave a finished run as it is, or put the results that were kept of it back."""
    best = layout.checkpoints / BEST
    if is_finished(layout, key):
        keep_training(layout)
        progress.note(f"{best} is up to date; --force trains again.")
        return
    remove_tree(layout.exports)  # they belong to another checkpoint
    restore(key, layout)
    layout.predictions.mkdir(exist_ok=True)
    progress.note(f"{best} is put back: this run was trained before; --force trains again.")


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Keep out other runs of the experiment, but not the other processes of this run."""
    busy = TrainingError(f"Another process trains this experiment in {work}: wait for it.")
    with exclusive(work.with_suffix(".lock"), busy) if is_first_process() else nullcontext():
        yield


def _tuned(run: Run, wanted: Wanted, work: Path, progress: Progress) -> Run:
    """Find the wanted options by trial, or read those found before an interruption."""
    found = tuned_values(work)
    if not found:
        options = tune(run, wanted, progress=progress)
        found = {name: getattr(options, name) for name, asked in asdict(wanted).items() if asked}
        write_json(work / TUNED, found)
    about = {**run.about, "tuned": found}
    return replace(run, options=run.options.model_copy(update=found), about=about)


def _take_over(experiment: Experiment, layout: RunLayout, progress: Progress) -> None:
    """Store the given weights where a finished run stores its own, with empty curves."""
    weights, image = given_weights(experiment), experiment.dataset.image
    checkpoint = given_checkpoint(experiment.student, image, weights, progress=progress)
    remove_tree(layout.exports)  # they belong to the previous checkpoint
    for target in (layout.checkpoints, layout.logs):
        remove_tree(target)
        target.mkdir(parents=True)
    save_checkpoint(layout.checkpoints / BEST, checkpoint)
    with atomic_path(layout.curves) as temporary:
        temporary.write_text("epoch\n", encoding="utf-8")
    write_json(layout.training_metrics, checkpoint.about["selection"])
    layout.predictions.mkdir(exist_ok=True)  # the report reads it, whichever protocols run
    given = experiment.student.weights
    progress.note(f"{layout.checkpoints / BEST}: the weights {given}, used as they are.")


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
            "Set dataset.split.validation to a share, such as 0.1, and run `mvmr shard`."
        )
    return SplitData(shards / split, manifests[split], features, experiment.dataset.image)


def _publish(work: Path, layout: RunLayout) -> None:
    """Put the results of a finished run where the experiment keeps them."""
    remove_tree(layout.exports)  # they belong to the previous checkpoint
    for target in (layout.checkpoints, layout.logs):
        remove_tree(target)
        target.mkdir(parents=True)
    for name in (BEST, LAST):
        shutil.copy2(work / name, layout.checkpoints / name)
    # Replaced by renaming: the old file may be a link into DVC's cache, which must stay as it is.
    with atomic_path(layout.curves) as temporary:
        shutil.copyfile(work / CURVES, temporary)
    publish_logs(work, layout.logs)
    about = load_checkpoint(layout.checkpoints / BEST).about
    tuned = {"tuned": about["tuned"]} if "tuned" in about else {}
    write_json(layout.training_metrics, {**about["selection"], **tuned})
