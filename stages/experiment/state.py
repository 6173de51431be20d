"""The state of each stage of an experiment, such as done, missing, stale or unfinished.

The checks are those that the stages make before they begin, so that both always agree.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from pipeline.base.digests import sha256_of
from pipeline.base.errors import DataError, MvmrError, StaleFeatureError
from pipeline.base.progress import Progress, Silent
from pipeline.base.text import counted, spoken
from pipeline.base.timing import read_attempts
from pipeline.features.store import FeatureStore, StoredFeature, differing
from pipeline.models.checkpoint import BEST, load_checkpoint
from pipeline.shards.manifest import read_manifest
from pipeline.shards.packing import is_current, listed_changes, packed_manifests
from stages.experiment.freshness import checked_features, provenance
from stages.experiment.paths import (
    DatasetLayout,
    RunLayout,
    dataset_layout,
    run_layout,
    unfinished_runs,
)
from stages.experiment.run_identity import (
    control_key,
    is_control_finished,
    is_finished,
    run_key,
    scored_control,
    tuned_values,
)
from stages.experiment.schema import Experiment
from stages.experiment.time_records import training_record
from stages.experiment.unfinished_features import in_the_making

Condition = Literal["done", "missing", "waiting", "unfinished", "stale", "broken"]


@dataclass(frozen=True)
class StageState:
    """One stage: its condition, what was found, and the command that completes it.

    A stage that is `waiting` needs the output of an earlier one; `broken` needs a decision.
    """

    stage: str
    condition: Condition
    found: str = ""
    remedy: str = ""

    def values(self) -> dict[str, str]:
        """Return the state as it appears in JSON."""
        return asdict(self)


def states(experiment: Experiment, data: str, progress: Progress) -> Iterator[StageState]:
    """Yield the state of each stage, in the order of the pipeline."""
    layout, run = dataset_layout(experiment.dataset.name, data), run_layout(experiment.name)
    sharded = _shards(experiment, layout, progress)
    yield sharded
    features, found = dict[str, StoredFeature](), []
    for name in experiment.features:
        state = _feature(experiment, name, layout, features, packed=sharded.condition == "done")
        found.append(state)
        yield state
    ready = all(s.condition == "done" for s in (sharded, *found))
    trained = _training(experiment, layout, run, features, ready=ready)
    yield trained
    scored = [
        _protocol(experiment, n, run, ready=trained.condition == "done")
        for n in experiment.evaluate
    ]
    yield from scored
    yield _report(run, ready=trained.condition == "done")


def _shards(experiment: Experiment, layout: DatasetLayout, progress: Progress) -> StageState:
    progress.start("compare the images with the shards", 0, "")
    dataset = experiment.dataset
    try:
        manifests = packed_manifests(layout.shards)
    except DataError as error:
        return StageState("shard", "broken", str(error), "mvmr shard --force")
    try:
        source = dataset.source.open_again(layout.listings)
    except MvmrError as error:
        if manifests:
            return StageState("shard", "done", f"used as they are: {error}")
        return StageState("shard", "broken", str(error), "put the images there")
    text = ", ".join(f"{manifest.valid:,} {split}" for split, manifest in manifests.items())
    try:
        current = is_current(manifests, source, dataset.split, provenance(dataset))
        changes = listed_changes(source, layout.shards, manifests)
    except DataError as error:
        return StageState("shard", "broken", str(error), "mvmr shard --force")
    if current:
        return StageState("shard", "done", text)
    if str(changes) and manifests:
        return StageState("shard", "stale", f"images have changed: {changes}", "mvmr shard")
    if not manifests:
        return StageState("shard", "missing", "", "mvmr shard")
    recorded = next(iter(manifests.values())).options
    what = "; ".join(differing(provenance(dataset), recorded)) or "some splits are missing"
    return StageState("shard", "stale", what, "mvmr shard")


def _feature(
    experiment: Experiment,
    name: str,
    layout: DatasetLayout,
    features: dict[str, StoredFeature],
    *,
    packed: bool,
) -> StageState:
    """Return the state of one feature, and add it to `features` if it is done."""
    stage, remedy = f"extract@{name}", f"mvmr extract-features --only {name}"
    if not packed:
        return StageState(stage, "waiting", "for shard")
    if name not in FeatureStore(layout.features):
        making = [m for m in in_the_making(experiment, layout) if m.feature == name and m.command]
        if making:
            text = f"{making[0].done} of {counted(making[0].shards, 'shards')} done"
            return StageState(stage, "unfinished", text, remedy)
        return StageState(stage, "missing", "", remedy)
    wanted = {name: experiment.features[name]}
    try:
        features |= checked_features(experiment, wanted, layout, Silent())
    except StaleFeatureError as error:
        return StageState(stage, "stale", str(error), remedy)
    except MvmrError as error:
        return StageState(stage, "broken", str(error), "mvmr store verify --repair")
    width = counted(features[name].width, "numbers")
    return StageState(stage, "done", f"{width} an image")


def _training(
    experiment: Experiment,
    layout: DatasetLayout,
    run: RunLayout,
    features: Mapping[str, StoredFeature],
    *,
    ready: bool,
) -> StageState:
    best = run.checkpoints / BEST
    if not ready:
        return StageState("train", "waiting", "for the stages before")
    if experiment.train is None:
        there = best.exists()
        return StageState(
            "train", "done" if there else "missing", "", "" if there else "mvmr train"
        )
    targets = {name: features[name] for name in experiment.targets()}
    try:
        manifests = [read_manifest(layout.shards / split) for split in ("train", "validation")]
    except DataError as error:
        return StageState("train", "broken", str(error), "mvmr shard --force")
    keyed: dict[str, Any] = {"manifests": manifests, "targets": targets}
    key = partial(run_key, experiment, **keyed)
    if best.exists():
        about = load_checkpoint(best).about
        tried = about.get("tuned", ())
        if is_finished(run, key(tuned=tried)):
            flags = "".join(f" --auto-{name.replace('_', '-')}" for name in tried)
            chosen = about["selection"]
            if experiment.train.supervised_control:
                own = control_key(experiment, tuned=tried, **keyed)
                if not is_control_finished(run, own):
                    return _control(run, own, flags)
            return StageState("train", "done", f"{chosen['rule']}, epoch {chosen['epoch']}")
    for work in sorted(unfinished_runs().glob("*/")):
        tuned = tuned_values(work)
        if work == run.unfinished(key(tuned=tuned)) and list(work.glob("*.ckpt")):
            flags = "".join(f" --auto-{name.replace('_', '-')}" for name in tuned)
            text = f"{work}: it continues from its last checkpoint"
            return StageState("train", "unfinished", text, f"mvmr train{flags}")
    if best.exists():
        return StageState("train", "stale", f"{best} was made from something else", "mvmr train")
    attempts = read_attempts(training_record(run, key(tuned=())))
    text = "the last attempt ended without a result" if attempts else ""
    return StageState("train", "missing", text, "mvmr train")


def _control(run: RunLayout, key: str, flags: str) -> StageState:
    """Return the state of training whose student is done, and its control with labels is not."""
    work, remedy = run.unfinished(key), f"mvmr train{flags}"
    if list(work.glob("*.ckpt")):
        text = f"{work}: the control with labels continues from its last checkpoint"
        return StageState("train", "unfinished", text, remedy)
    return StageState("train", "missing", "the control with labels is not trained", remedy)


def _protocol(experiment: Experiment, name: str, run: RunLayout, *, ready: bool) -> StageState:
    stage, path = f"evaluate@{name}", run.metrics / f"{name}.json"
    remedy = f"mvmr evaluate --only {name}"
    if not ready:
        return StageState(stage, "waiting", "for train")
    if not path.exists():
        return StageState(stage, "missing", "", remedy)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        control = scored_control(experiment, run)
        same = record["checkpoint"]["sha256"] == sha256_of(run.checkpoints / BEST)
        same &= record.get("supervised") == (sha256_of(control) if control else None)
        wanted = experiment.evaluate[name].model_dump(mode="json")
        if not same or record["protocol"] != wanted:
            what = "other options" if same else "another checkpoint"
            return StageState(stage, "stale", f"{path} was made with {what}", remedy)
        main = record["main"]
        return StageState(stage, "done", f"{spoken(main)} {record[main]:.4g}")
    except (ValueError, KeyError, TypeError) as error:
        return StageState(stage, "broken", f"{path} cannot be read ({error!r})", remedy)


def _report(run: RunLayout, *, ready: bool) -> StageState:
    if not ready:
        return StageState("report", "waiting", "for train")
    if not run.report.exists():
        return StageState("report", "missing", "", "mvmr report")
    written = run.report.stat().st_mtime
    if any(path.stat().st_mtime > written for path in run.metrics.glob("*.json")):
        return StageState("report", "stale", "metrics are newer", "mvmr report")
    return StageState("report", "done", str(run.report))
