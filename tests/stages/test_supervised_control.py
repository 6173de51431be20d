"""The control trained with labels: trained beside the student, kept, resumed, scored, and told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_run import QUICK, ROOT
from PIL import Image
from watched import Watched

from pipeline.base.digests import sha256_of
from pipeline.base.errors import ConfigError
from pipeline.models.checkpoint import load_checkpoint
from stages.experiment.paths import RunLayout, dataset_layout, run_layout
from stages.experiment.schema import Experiment, load
from stages.experiment.state import states
from stages.steps.train_student import train_student
from stages.terminal.cli import run

CONTROL = [*QUICK, "-s", "train.supervised_control=true"]
KNN = ["evaluate", "--only", "knn"]


def experiment(*more: str) -> Experiment:
    assignments = [word for word in [*CONTROL, *more] if word != "-s"]
    return load(Path("params.yaml"), assignments)


def layout() -> RunLayout:
    return run_layout("digits")


def scores() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((layout().metrics / "knn.json").read_text("utf-8"))
    return found


def trained(progress: Watched, *more: str) -> bool:
    """Train what is missing, and return whether nothing was."""
    done = train_student(experiment(*more), dataset_layout("digits"), layout(), progress)
    assert done is not None
    return done.up_to_date


def steps(progress: Watched) -> list[int]:
    return [phase.done for phase in progress.phases if phase.what == "train"]


class Interrupted(Watched):
    """Raises KeyboardInterrupt in the second training, after some steps."""

    def advance(self, count: int, status: str = "") -> None:
        """Count units, and raise."""
        super().advance(count, status)
        phase = self.phases[-1]
        if phase.what == "train" and len(steps(self)) == 1 and phase.done > phase.total // 2:
            raise KeyboardInterrupt


def test_it_is_trained_beside_a_finished_student_scored_and_told(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = sha256_of(layout().checkpoints / "best.pt")
    (before,) = [s for s in states(experiment(), "data", Watched()) if s.stage == "train"]
    assert (before.condition, before.remedy) == ("missing", "mvmr train")
    assert run([*KNN, *CONTROL]) == 1
    assert "run `mvmr train" in capsys.readouterr().err
    assert run(["train", "--json", *CONTROL]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["supervised"]["selection"]["rule"] == "validation/probe_top1"
    assert sha256_of(layout().checkpoints / "best.pt") == student  # it was not trained again
    (after,) = [s for s in states(experiment(), "data", Watched()) if s.stage == "train"]
    assert after.condition == "done"
    control = load_checkpoint(layout().supervised).encoder
    best = load_checkpoint(layout().checkpoints / "best.pt").encoder
    assert any(not torch.equal(control[name], best[name]) for name in best)
    assert run([*KNN, *CONTROL]) == 0
    assert scores()["supervised"] == sha256_of(layout().supervised)
    assert list(scores()["controls"])[:2] == ["supervised", "untrained"]
    heads = layout().per_image("knn").read_text("utf-8").splitlines()[0].split(",")
    assert "supervised" in heads  # from which differences are paired
    assert run(["report", *CONTROL]) == 0
    page = layout().report.read_text("utf-8")
    assert "the same encoder, trained with labels" in page
    assert "the same encoder trained with labels: knn by" in page
    assert "to train a control" in page


def test_without_the_option_it_is_gone_and_it_comes_back_without_training(inside: Path) -> None:
    assert not trained(Watched())
    made = layout().supervised.read_bytes()
    without = Watched()
    assert trained(without, "train.supervised_control=false")
    assert not layout().supervised.exists()
    assert not layout().supervised_logs.exists()
    again = Watched()
    assert trained(again)
    assert steps(without) == steps(again) == []
    assert layout().supervised.read_bytes() == made
    assert (layout().supervised_logs / "epochs.csv").exists()
    # Another weight of a term changes the student alone.
    other = Watched()
    assert not trained(other, "objective.invariance.weight=2")
    assert len(steps(other)) == 1
    assert layout().supervised.read_bytes() == made


def test_an_interrupted_one_continues_and_equals_an_undisturbed_one(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(Interrupted(), "train.saving.steps=1")
    (state,) = [
        s
        for s in states(experiment("train.saving.steps=1"), "data", Watched())
        if s.stage == "train"
    ]
    assert state.condition == "unfinished"
    resumed = Watched()
    assert not trained(resumed, "train.saving.steps=1")
    assert any("Continuing" in note for note in resumed.notes)
    found = load_checkpoint(layout().supervised).encoder
    undisturbed = train_student(
        experiment("train.saving.steps=1"),
        dataset_layout("digits"),
        RunLayout(inside / "other"),
        Watched(),
    )
    assert undisturbed is not None
    expected = load_checkpoint(RunLayout(inside / "other").supervised).encoder
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_it_needs_labels_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flat").mkdir()
    for number in range(60):
        shade = np.full((8, 8), 4 * number, dtype=np.uint8)
        Image.fromarray(shade).save(f"flat/{number}.png")
    flat = "{kind: image_folder, root: flat}"
    assignments = ["-s", f"dataset.source={flat}", "-s", "dataset.split.method=hash", *CONTROL]
    assignments += ["-s", "train.batch_size=16"]
    config = ROOT / "configs/digits.yaml"
    assert run(["shard", "-c", str(config), *assignments]) == 0
    progress = Watched()
    with pytest.raises(ConfigError, match="needs training images with one class each"):
        train_student(
            load(config, [word for word in assignments if word != "-s"]),
            dataset_layout("digits"),
            layout(),
            progress,
        )
    assert steps(progress) == []


def test_a_plan_counts_it(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for assignments in (QUICK, CONTROL):
        assert run(["plan", "--json", *assignments, "-s", "train.epochs=50"]) == 0
        found.append(json.loads(capsys.readouterr().out)["training"])
    without, beside = found
    assert "control_epoch_seconds" not in without
    own = beside["epoch_seconds"] + beside["control_epoch_seconds"]
    assert beside["seconds"] == pytest.approx(50 * own)
    assert beside["control_epoch_seconds"] > 0.2 * beside["epoch_seconds"]
