"""Which epoch is kept, by each rule, judged by the curves that training has written."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import equal
from training_runs import make_data, make_run

from pipeline.base.errors import ConfigError
from pipeline.base.progress import Silent
from pipeline.models.checkpoint import BEST, LAST, load_checkpoint
from pipeline.training.curve_names import KNN, OBJECTIVE, PROBE
from pipeline.training.fit import CURVES, fit

EPOCHS = 4
TERMS = {"hog": {"kind": "regression"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    make_data(root)
    return root


@pytest.mark.parametrize(
    ("rule", "curve", "best"),
    [("probe", PROBE, max), ("knn", KNN, max), ("objective", OBJECTIVE, min)],
)
def test_a_rule_keeps_the_first_best_epoch_of_its_curve(
    data: Path, tmp_path: Path, rule: str, curve: str, best: Callable[[list[float]], float]
) -> None:
    # At a rate that is far too high, curves go up and down, so that the rules differ.
    fit(make_run(data, TERMS, epochs=EPOCHS, lr=0.3, select=rule), work=tmp_path, progress=Silent())
    with (tmp_path / CURVES).open(newline="") as file:
        drawn = [float(row[curve]) for row in csv.DictReader(file)]
    chosen = load_checkpoint(tmp_path / BEST).about["selection"]
    assert chosen["rule"] == curve
    assert chosen["epoch"] == drawn.index(best(drawn)) + 1
    assert chosen["score"] == pytest.approx(best(drawn), rel=1e-4)


def test_the_last_epoch_is_kept_without_a_score(data: Path, tmp_path: Path) -> None:
    fit(make_run(data, TERMS, epochs=EPOCHS, select="last"), work=tmp_path, progress=Silent())
    best, last = (load_checkpoint(tmp_path / name) for name in (BEST, LAST))
    assert best.about["selection"] == {"epoch": EPOCHS, "rule": "last", "score": None}
    assert all(equal(best.encoder[name], last.encoder[name]) for name in best.encoder)


@pytest.mark.parametrize("rule", ["probe", "knn"])
def test_rules_that_need_labels_say_so(data: Path, tmp_path: Path, rule: str) -> None:
    run = make_run(data, TERMS, epochs=1, select=rule)
    unlabelled = replace(run.validation, manifest=replace(run.validation.manifest, labelled=0))
    with pytest.raises(ConfigError, match=f"train.select is {rule}, but .* do not have one label"):
        fit(replace(run, validation=unlabelled), work=tmp_path, progress=Silent())
