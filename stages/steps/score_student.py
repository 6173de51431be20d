"""Scoring the student by each protocol, beside controls obtained the same way."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.base.atomic import write_json
from pipeline.base.digests import sha256_of
from pipeline.base.locations import remove_tree
from pipeline.base.progress import Progress
from pipeline.base.timing import timed
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.protocol import Outcome, Values
from pipeline.evaluation.protocols import AnyProtocol, require_something_to_find, score_all
from pipeline.evaluation.record import (
    full_record,
    headline,
    summary,
    write_per_image,
    write_predictions,
)
from pipeline.features.store import StoredFeature
from pipeline.models.checkpoint import BEST, Checkpoint, load_checkpoint
from pipeline.shards.manifest import read_manifests
from pipeline.training.trial import Wanted
from stages.experiment.dvc_stages import protocol_outs
from stages.experiment.finished import is_kept, keep, restore
from stages.experiment.freshness import checked_features
from stages.experiment.paths import DatasetLayout, RunLayout
from stages.experiment.run_identity import evaluation_key, scored_control
from stages.experiment.schema import Experiment
from stages.experiment.scored_subjects import scored
from stages.experiment.time_records import evaluation_record

NOTHING = Wanted()


@dataclass(frozen=True)
class StudentScores:
    """The record of each protocol, and all stored features of the experiment."""

    records: Mapping[str, Values]
    features: Mapping[str, StoredFeature]


def score_student(
    experiment: Experiment,
    protocols: Mapping[str, AnyProtocol],
    stored: DatasetLayout,
    layout: RunLayout,
    progress: Progress,
    *,
    tell: Callable[[str], None],
    wanted: Wanted = NOTHING,
    checkpoint: Path | None = None,
    force: bool = False,
) -> StudentScores:
    """Score the trained student and all its controls alike.

    `tell` gets one line per protocol as soon as it is scored. Scores of another `checkpoint` than
    the run's own are not written.
    """
    if wanted:
        require_something_to_find(protocols)
    path, of_run = checkpoint or layout.checkpoints / BEST, checkpoint is None
    progress.start("load the checkpoint", 0, "")
    trained = load_checkpoint(path, student=experiment.student, image=experiment.dataset.image)
    features = checked_features(experiment, experiment.features, stored, progress)
    control = scored_control(experiment, layout) if of_run else None
    asked = [
        _Asked(name, options, _provenance(experiment, options, trained, path, control))
        for name, options in protocols.items()
    ]
    keys = _keys(experiment, asked, features, wanted, stored) if of_run else {}
    again = [a for a in asked if a.name in keys and not force and is_kept(keys[a.name], layout)]
    records = {a.name: _put_back(layout, a.name, keys[a.name], tell) for a in again}
    missing = [a for a in asked if a.name not in records]
    if missing:
        cache = layout.embeddings
        seen = scored(experiment, trained, stored, features, cache, progress, supervised=control)
        setting = replace(seen.setting(experiment, trained, cache, progress), wanted=wanted)
    for one in missing:
        times = [evaluation_record(layout, one.name, one.provenance)] if of_run else []
        with timed(times, progress):
            outcomes = score_all(one.protocol, seen.subjects, setting)
        records[one.name] = record = full_record(outcomes, one.provenance)
        if of_run:
            _write(layout, one.name, outcomes, record, seen.images)
            outs = protocol_outs(layout, one.name)
            keep(keys[one.name], layout, outs, what=f"evaluate {one.name}")
        tell(f"{one.name}: {headline(record)}")
    return StudentScores({name: records[name] for name in protocols}, features)


@dataclass(frozen=True)
class _Asked:
    """One protocol to score by, with what its record says of its origin."""

    name: str
    protocol: AnyProtocol
    provenance: dict[str, Any]


def _keys(
    experiment: Experiment,
    asked: Sequence[_Asked],
    features: Mapping[str, StoredFeature],
    wanted: Wanted,
    stored: DatasetLayout,
) -> dict[str, str]:
    """Return the key of each protocol's results."""
    manifests = read_manifests(stored.shards).values()
    tuned = [name for name, tried in asdict(wanted).items() if tried]
    return {
        one.name: evaluation_key(
            experiment, one.provenance, tuned=tuned, manifests=manifests, features=features
        )
        for one in asked
    }


def _put_back(layout: RunLayout, name: str, key: str, tell: Callable[[str], None]) -> Values:
    """Put kept results of a protocol back, and return their record."""
    restore(key, layout)
    text = (layout.metrics / f"{name}.json").read_text(encoding="utf-8")
    record: Values = json.loads(text)
    tell(f"{name}: {headline(record)} (scored before; --force scores again)")
    return record


def _write(
    layout: RunLayout,
    name: str,
    outcomes: Mapping[str, Outcome],
    record: Values,
    images: Images,
) -> None:
    write_json(layout.metrics / f"{name}.json", record)
    write_json(layout.scores / f"{name}.json", summary(outcomes))
    split = record["split"]
    names, identities = images.names(split), images.identities(split)
    write_per_image(layout.per_image(name), outcomes, names, identities)
    directory = layout.predictions / name
    remove_tree(directory)
    directory.mkdir(parents=True)
    predictions = outcomes["student"].predictions
    names = images.names("test") if predictions is not None else []
    path = directory / "predictions.csv"
    write_predictions(path, predictions, classes=images.classes, names=names)


def _provenance(
    experiment: Experiment,
    options: AnyProtocol,
    trained: Checkpoint,
    path: Path,
    control: Path | None,
) -> dict[str, Any]:
    """Return what a reader must know in order to trust the values."""
    return {
        "protocol": options.model_dump(mode="json"),
        "checkpoint": {
            "file": path.name,
            "sha256": sha256_of(path),
            "selection": trained.about.get("selection"),
        },
        **({"supervised": sha256_of(control)} if control else {}),
        "seed": experiment.seed,
        "experiment": {"name": experiment.name, "digest": experiment.digest()},
    }
