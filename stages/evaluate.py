"""`mvmr evaluate`: score the student by each protocol, beside controls obtained the same way."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from pipeline.base.atomic import write_json
from pipeline.base.digests import sha256_of
from pipeline.base.locations import remove_tree
from pipeline.base.progress import Progress
from pipeline.base.text import spoken
from pipeline.base.timing import timed
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.protocol import Outcome, Setting, Values
from pipeline.evaluation.protocols import AnyProtocol, require_something_to_find, score_all
from pipeline.evaluation.record import full_record, summary, write_per_image, write_predictions
from pipeline.features.store import StoredFeature
from pipeline.models.checkpoint import BEST, Checkpoint, load_checkpoint
from pipeline.shards.manifest import read_manifests
from pipeline.training.trial import Wanted
from stages.experiment.chosen import Chosen
from stages.experiment.dvc_lock import changed_by_hand, record_fingerprints
from stages.experiment.dvc_stages import protocol_outs
from stages.experiment.finished import is_kept, keep, restore
from stages.experiment.freshness import checked_features
from stages.experiment.paths import (
    DatasetLayout,
    RunLayout,
    dataset_layout,
    evaluation_work,
    run_layout,
)
from stages.experiment.run_identity import evaluation_key
from stages.experiment.schema import Experiment
from stages.experiment.scored_subjects import Scored, scored
from stages.experiment.time_records import evaluation_record
from stages.terminal.announcement import announce
from stages.terminal.console import Screen, table
from stages.terminal.result import Result, headline


def evaluate(
    screen: Screen,
    *,
    chosen: Chosen,
    data: str,
    only: tuple[str, ...],
    checkpoint: Path | None,
    auto_lr: bool,
    auto_batch_size: bool,
    force: bool,
) -> Result:
    """Score the trained student, the untrained one, pixels and every stored feature alike."""
    experiment = chosen.experiment
    layout, stored = run_layout(experiment.name), dataset_layout(experiment.dataset.name, data)
    protocols = {n: p for n, p in experiment.evaluate.items() if not only or n in only}
    wanted = Wanted(lr=auto_lr, batch_size=auto_batch_size)
    if wanted:
        require_something_to_find(protocols)
    path = checkpoint or layout.checkpoints / BEST
    announce(
        screen,
        f"evaluate {', '.join(protocols)}",
        experiment,
        data=stored,
        reads=[path, stored.shards, stored.features],
        writes=[layout.metrics, layout.scores, layout.predictions] if checkpoint is None else [],
        student=True,
        device=True,
    )
    progress, of_run = screen.progress, checkpoint is None
    progress.start("load the checkpoint", 0, "")
    trained = load_checkpoint(path, student=experiment.student, image=experiment.dataset.image)
    features = checked_features(experiment, experiment.features, stored, progress)
    asked = [_Asked(n, p, _provenance(experiment, p, trained, path)) for n, p in protocols.items()]
    keys = _keys(experiment, asked, features, wanted, stored) if of_run else {}
    kept = [a for a in asked if a.name in keys and not force and is_kept(keys[a.name])]
    records = {a.name: _put_back(layout, a.name, keys[a.name], progress) for a in kept}
    missing = [a for a in asked if a.name not in records]
    if missing:
        seen = scored(experiment, trained, stored, features, progress)
        setting = replace(_setting(experiment, trained, seen, progress), wanted=wanted)
    for one in missing:
        times = [evaluation_record(layout, one.name, one.provenance)] if of_run else []
        with timed(times, progress):
            outcomes = score_all(one.protocol, seen.subjects, setting)
        records[one.name] = record = full_record(outcomes, one.provenance)
        if of_run:
            _write(layout, one.name, outcomes, record, seen.images)
            outs = protocol_outs(layout, one.name)
            keep(keys[one.name], layout.root, outs, what=f"evaluate {one.name}")
        progress.finish()
        progress.note(f"{one.name}: {headline(record)}")
    if of_run:
        _tell_dvc(experiment, protocols, features, layout, progress, data)
    records = {name: records[name] for name in protocols}
    tables = [_result_table(f"{experiment.name}: {n}", record) for n, record in records.items()]
    following = ["mvmr", "report"] if of_run else ()
    return Result({"protocols": records}, tables, following)


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


def _put_back(layout: RunLayout, name: str, key: str, progress: Progress) -> Values:
    """Put kept results of a protocol back, and return their record."""
    restore(key, layout.root)
    text = (layout.metrics / f"{name}.json").read_text(encoding="utf-8")
    record: Values = json.loads(text)
    progress.note(f"{name}: {headline(record)} (scored before; --force scores again)")
    return record


def _tell_dvc(
    experiment: Experiment,
    protocols: Iterable[str],
    features: Mapping[str, StoredFeature],
    layout: RunLayout,
    progress: Progress,
    data: str,
) -> None:
    """Record what a run by hand has made, with the fingerprints that `dvc.yaml` puts before it."""
    record_fingerprints(layout.features, features)
    made = ["select", *(f"evaluate@{name}" for name in protocols)]
    changed_by_hand(experiment, made, progress, data=data)


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


def _setting(
    experiment: Experiment, trained: Checkpoint, seen: Scored, progress: Progress
) -> Setting:
    """Return what the protocols may use besides the subjects that they score."""
    return Setting(
        images=seen.images,
        references=seen.references,
        specifications=experiment.features,
        checkpoint=trained,
        device=seen.device,
        seed=experiment.seed,
        work=evaluation_work(experiment.name),
        progress=progress,
    )


def _provenance(
    experiment: Experiment, options: AnyProtocol, trained: Checkpoint, path: Path
) -> dict[str, Any]:
    """Return what a reader must know in order to trust the values."""
    return {
        "protocol": options.model_dump(mode="json"),
        "checkpoint": {
            "file": path.name,
            "sha256": sha256_of(path),
            "selection": trained.about.get("selection"),
        },
        "seed": experiment.seed,
        "experiment": {"name": experiment.name, "digest": experiment.digest()},
    }


def _result_table(title: str, record: Values) -> Table:
    """Return a table with one column per subject and one row per number."""
    subjects = {"student": record, **record["controls"]}
    flat = {name: dict(_numbers(values, record["main"])) for name, values in subjects.items()}
    names = list(dict.fromkeys(number for numbers in flat.values() for number in numbers))
    rows = [[n, *(flat[subject].get(n, "") for subject in flat)] for n in names]
    return table(title, ["", *flat], rows)


def _numbers(values: Values, main: str) -> Iterator[tuple[str, str]]:
    """Yield the named numbers of a subject, with those of its `with_<reference>` sections."""
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "seed":
            yield spoken(name, main=main), f"{value:.4g}"
        elif name.startswith("with_"):
            for inner, number in value.items():
                yield spoken(f"{inner}_{name}"), f"{number:.3g}"
