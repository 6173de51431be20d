"""Training the student of an experiment, or putting back what was trained before."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.base.atomic import atomic_path, write_json
from pipeline.base.errors import ConfigError, DataError, TrainingError
from pipeline.base.locations import Location, remove_tree
from pipeline.base.locks import exclusive
from pipeline.base.processes import is_first_process
from pipeline.base.progress import Progress
from pipeline.base.timing import timed
from pipeline.datasets.source import Split
from pipeline.features.store import StoredFeature
from pipeline.loading.batch import SplitData
from pipeline.models.checkpoint import BEST, save_checkpoint
from pipeline.shards.manifest import read_manifests
from pipeline.training.fit import fit
from pipeline.training.run import Run
from pipeline.training.saving import RESUME
from pipeline.training.start import given_checkpoint
from pipeline.training.trial import Wanted
from stages.experiment.finished import is_kept, keep, restore
from stages.experiment.freshness import checked_features
from stages.experiment.paths import DatasetLayout, RunLayout
from stages.experiment.run_identity import (
    control_key,
    given_weights,
    keep_training,
    run_key,
)
from stages.experiment.schema import Experiment
from stages.experiment.time_records import training_record
from stages.steps.training_parts import TrainedPart, control_part, remove_control, student_part

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
    _require_labels(experiment, stored)
    features = checked_features(experiment, experiment.targets(), stored, progress)
    train, validation = (
        _split(experiment, s, features, stored.shards) for s in ("train", "validation")
    )
    keyed: dict[str, Any] = {
        "tuned": [name for name, asked in asdict(wanted).items() if asked],
        "manifests": [train.manifest, validation.manifest],
        "targets": features,
    }
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
    student = student_part(run, run_key(experiment, **keyed), layout, wanted)
    up_to_date = _trained(student, layout, progress, force=force)
    if experiment.train.supervised_control:
        control = control_part(run, control_key(experiment, **keyed), layout, wanted)
        up_to_date &= _trained(control, layout, progress, force=force)
    if not is_first_process():
        return None
    if not experiment.train.supervised_control:
        remove_control(layout)
    layout.predictions.mkdir(exist_ok=True)  # the report reads it, whichever protocols run
    return Trained(features, up_to_date)


def _trained(part: TrainedPart, layout: RunLayout, progress: Progress, *, force: bool) -> bool:
    """Train a part, or put it back; return whether it had been trained before."""
    if not force and (is_kept(part.key, layout) or part.is_finished()):
        if is_first_process():
            _put_back(part, layout, progress)
        return True
    work = layout.unfinished(part.key)
    records = [training_record(layout, part.key)] if is_first_process() else []
    with _alone(work), timed(records, progress) as timing:
        if (work / RESUME).exists():
            timing.note(f"Continuing the interrupted run in {work}.")
        fit(part.run(work, timing), work=work, progress=timing)
        if is_first_process():
            part.publish(work)
            keep(part.key, layout, part.outs, what=part.kept_as)
            remove_tree(work)  # last, so that a process killed before this loses nothing
    return False


def _require_labels(experiment: Experiment, stored: DatasetLayout) -> None:
    """Raise ConfigError if a control is to be trained with labels and there are none."""
    if experiment.train is None or not experiment.train.supervised_control:
        return
    train = read_manifests(stored.shards)["train"]
    if not train.labelled or train.multi_label:
        raise ConfigError(
            "train.supervised_control trains a control with labels, and needs training images with "
            "one class each: set it to false, or name a source of labels."
        )


def _stored(experiment: Experiment) -> dict[str, Any]:
    """Return how the images were stored, so that others can be embedded alike."""
    reduction = experiment.dataset.shards.reduction
    return {"reduction": reduction.model_dump(mode="json")} if reduction else {}


def _put_back(part: TrainedPart, layout: RunLayout, progress: Progress) -> None:
    """Leave a finished run as it is, or put the results that were kept of it back."""
    if part.is_finished():
        keep_training(layout)
        progress.note(f"{part.checkpoint} is up to date; --force trains again.")
        return
    part.clear()
    restore(part.key, layout)
    progress.note(
        f"{part.checkpoint} is put back: this run was trained before; --force trains again."
    )


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Keep out other runs of the experiment, but not the other processes of this run."""
    busy = TrainingError(f"Another process trains this experiment in {work}: wait for it.")
    with exclusive(work.with_suffix(".lock"), busy) if is_first_process() else nullcontext():
        yield


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
