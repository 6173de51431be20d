"""The stages of `dvc.yaml` for one experiment: their names, commands and outputs.

`tests/stages/test_dvc_lock.py` compares them with what DVC reads from the file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.experiment.paths import DatasetLayout, RunLayout, dataset_layout, run_layout

if TYPE_CHECKING:  # it imports torch
    from stages.experiment.schema import Experiment

METADATA = "zarr.json"  # of the whole store


@dataclass(frozen=True)
class TrackedStage:
    """A stage: `name` in `dvc.lock`, and `outs`, the paths that DVC tracks.

    `of_data` says whether it belongs to the data set, and so to every experiment on it.
    """

    name: str
    cmd: str
    outs: tuple[Path, ...]
    of_data: bool


def tracked_stages(experiment: "Experiment") -> dict[str, TrackedStage]:
    """Return the stages by the names that `mvmr doctor` uses: shard, extract@hog, train, ..."""
    data, run = dataset_layout(experiment.dataset.name), run_layout(experiment.name)
    return {**_of_data(experiment, data), **_of_run(experiment, run)}


def _of_data(experiment: "Experiment", layout: DatasetLayout) -> dict[str, TrackedStage]:
    name, store = experiment.dataset.name, layout.features

    def stage(group: str, key: str, cmd: str, *outs: object) -> TrackedStage:
        return TrackedStage(f"{group}@{key}", f"mvmr {cmd}", (*map(Path, map(str, outs)),), True)

    return {
        "source": stage("source", name, "store look", layout.listing),
        "shard": stage("shard", name, "shard", layout.shards, store / METADATA),
        **{
            f"extract@{feature}": stage(
                "extract",
                f"{name}-{feature}",
                f"extract-features --only {feature}",
                *(store / feature, layout.fidelity / f"{feature}.json"),
            )
            for feature in experiment.features
        },
    }


def _of_run(experiment: "Experiment", run: RunLayout) -> dict[str, TrackedStage]:
    name = experiment.name

    def stage(group: str, key: str, cmd: str, outs: tuple[Path, ...]) -> TrackedStage:
        return TrackedStage(f"{group}@{key}", f"mvmr {cmd}", outs, False)

    return {
        "select": stage("select", name, "store select", (run.targets, run.features)),
        "train": stage("train", name, "train", training_outs(run)),
        **{
            f"evaluate@{protocol}": stage(
                "evaluate",
                f"{name}-{protocol}",
                f"evaluate --only {protocol}",
                protocol_outs(run, protocol),
            )
            for protocol in experiment.evaluate
        },
        "report": stage("report", name, "report", (run.report, run.record)),
    }


def training_outs(run: RunLayout) -> tuple[Path, ...]:
    """Return what training writes."""
    return run.checkpoints, run.logs, run.curves, run.training_metrics


def control_outs(run: RunLayout) -> tuple[Path, ...]:
    """Return what training the control with labels writes, within the outputs of training."""
    return run.supervised, run.supervised_logs


def protocol_outs(run: RunLayout, protocol: str) -> tuple[Path, ...]:
    """Return what evaluation by one protocol writes."""
    return (
        run.metrics / f"{protocol}.json",
        run.per_image(protocol),
        run.predictions / protocol,
        run.scores / f"{protocol}.json",
    )
