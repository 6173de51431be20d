"""`mvmr train`: train the student on images and cached targets."""

import csv
import json
from typing import Any

from pipeline.models.checkpoint import BEST, load_checkpoint
from pipeline.training.curve_names import explained_shares
from pipeline.training.doubts import doubts
from pipeline.training.trial import Wanted
from stages.experiment.chosen import Chosen
from stages.experiment.dvc_lock import changed_by_hand, record_fingerprints
from stages.experiment.paths import RunLayout, dataset_layout, run_layout
from stages.experiment.requirements import require_weights
from stages.steps.train_student import train_student
from stages.terminal.announcement import announce
from stages.terminal.console import Screen, table
from stages.terminal.result import Result

LAST_ROW = (
    ("train/objective", "objective", "{:.4g}"),
    ("validation/objective", "objective on validation", "{:.4g}"),
    ("images_per_second", "images a second", "{:.0f}"),
    ("wait_share", "of the time waiting for data", "{:.1%}"),
)


def train(
    screen: Screen,
    *,
    chosen: Chosen,
    data: str,
    auto_lr: bool,
    auto_batch_size: bool,
    force: bool,
) -> Result:
    """Train the student, or continue an interrupted run of the same experiment."""
    experiment = chosen.experiment
    layout = run_layout(experiment.name)
    stored = dataset_layout(experiment.dataset.name, data)
    announce(
        screen,
        "train",
        experiment,
        data=stored,
        reads=[stored.shards, *(stored.features / name for name in experiment.targets())],
        writes=[layout.checkpoints, layout.logs, layout.curves, layout.training_metrics],
        student=True,
        objective=True,
        device=True,
    )
    require_weights(experiment)
    wanted = Wanted(lr=auto_lr, batch_size=auto_batch_size)
    done = train_student(experiment, stored, layout, screen.progress, wanted=wanted, force=force)
    if done is None:
        return Result({})
    made = ["train"]
    if experiment.train is not None:  # with the fingerprints that `dvc.yaml` puts before it
        record_fingerprints(layout.targets, done.features)
        made = ["select", "train"]
    changed_by_hand(experiment, made, screen.progress, data=data)
    return _result(layout, ["mvmr", "evaluate"], up_to_date=done.up_to_date)


def _result(layout: RunLayout, following: list[str], *, up_to_date: bool = False) -> Result:
    """Return the chosen checkpoint, its rule and doubts about it, and the curves' last row."""
    chosen = json.loads(layout.training_metrics.read_text(encoding="utf-8"))
    with layout.curves.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers = [{name: float(value) for name, value in row.items() if value} for row in rows]
    last = numbers[-1] if numbers else {}
    best = layout.checkpoints / BEST
    values: dict[str, Any] = {
        "checkpoint": str(best),
        "up_to_date": up_to_date,
        "selection": chosen,
        "last": last,
        "doubts": list(doubts(numbers, chosen)),
    }
    shown = [["checkpoint", str(best)], ["chosen by", f"{chosen['rule']}, epoch {chosen['epoch']}"]]
    if chosen["score"] is not None:
        shown.append([chosen["rule"], f"{chosen['score']:.4g}"])
    shown += [[name, f"{value:.4g}"] for name, value in chosen.get("tuned", {}).items()]
    if layout.supervised.exists():
        control = load_checkpoint(layout.supervised).about["selection"]
        values["supervised"] = {"checkpoint": str(layout.supervised), "selection": control}
        score = f"{control['rule']}, epoch {control['epoch']}"
        if control["score"] is not None:
            score += f", {control['score']:.4g}"
        shown.append(["the same encoder with labels", score])
    shown += [
        [f"{label}, last epoch", how.format(last[n])] for n, label, how in LAST_ROW if n in last
    ]
    shown += [
        [f"{name}, share explained on validation", f"{100 * share:.1f} %"]
        for name, share in explained_shares(last)
    ]
    shown += [["doubtful", doubt] for doubt in values["doubts"]]
    return Result(values, [table("Trained", ["", ""], shown)], following)
