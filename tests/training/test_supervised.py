"""The control trained with labels sees what the student sees, and learns from labels instead."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import SELF_SUPERVISED, make_data, make_run

from pipeline.base.progress import Silent
from pipeline.models.checkpoint import BEST, load_checkpoint
from pipeline.training.fit import CURVES, fit
from pipeline.training.module import StudentModule
from pipeline.training.run import Run
from pipeline.training.step_views import ViewPlan
from pipeline.training.supervised import supervised

VIEWS: dict[str, dict[str, Any]] = {
    "both": SELF_SUPERVISED,
    "augmented": {"hog": {"kind": "regression", "view": "augmented"}},
    "original": {"hog": {"kind": "regression", "view": "original"}},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    make_data(root)
    return root


class Seen:
    """What goes into the encoder at each training step, and its first weights."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.start: dict[str, Tensor] = {}
        shown = StudentModule._views

        def noted(module: StudentModule, batch: Any, plan: ViewPlan) -> Any:
            views = shown(module, batch, plan)
            if module.training:
                self.start = self.start or {
                    name: value.clone() for name, value in module.encoder.state_dict().items()
                }
                self.steps.append({str(name): view.clone() for name, view in views.items()})
            return views

        patch.setattr(StudentModule, "_views", noted)


def seen_in(run: Run, work: Path) -> Seen:
    with pytest.MonkeyPatch.context() as patch:
        seen = Seen(patch)
        fit(run, work=work, progress=Silent())
    return seen


@pytest.mark.parametrize("view", VIEWS)
def test_it_starts_alike_and_sees_the_same_views_in_the_same_order(
    data: Path, tmp_path: Path, view: str
) -> None:
    run = make_run(data, VIEWS[view], epochs=2)
    student = seen_in(run, tmp_path / "student")
    control = seen_in(supervised(run, {}), tmp_path / "control")
    assert len(control.steps) == len(student.steps) == 10
    for ours, theirs in zip(student.steps, control.steps, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert student.start.keys() == control.start.keys()
    assert all(torch.equal(student.start[n], control.start[n]) for n in student.start)


def test_it_learns_the_labels_and_is_selected_by_the_same_rule(data: Path, tmp_path: Path) -> None:
    run = make_run(data, epochs=8, probe={"lr": 0.02})
    fit(supervised(run, {"digest": "own"}), work=tmp_path, progress=Silent())
    best = load_checkpoint(tmp_path / BEST)
    assert best.about["digest"] == "own"
    assert best.about["selection"]["rule"] == "validation/probe_top1"
    assert best.about["selection"]["score"] > 60  # chance is 10
    last = (tmp_path / CURVES).read_text().splitlines()[-1].split(",")
    names = (tmp_path / CURVES).read_text().splitlines()[0].split(",")
    row = dict(zip(names, map(float, last), strict=True))
    assert row["validation/trivial/labels"] == pytest.approx(2.3, abs=0.02)  # log 10
    assert row["validation/explained/labels"] > 0.1


def test_it_reads_no_target(data: Path, tmp_path: Path) -> None:
    run = make_run(data, epochs=1)
    control = supervised(run, {})
    assert not control.train.features
    assert not control.validation.features
    assert not control.live
    assert control.content()["targets"] == {}
    only = replace(control, seed=6)
    assert only.content() != control.content()
