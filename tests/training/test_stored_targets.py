"""Training with terms that know stored targets beforehand, and what curves say of every term."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import make_data, make_run

from pipeline.base.errors import ConfigError, StoreError
from pipeline.base.progress import Silent
from pipeline.features.store import FeatureStore, StoredFeature
from pipeline.loading.evaluation_loader import EvaluationLoader
from pipeline.objective.objective import Moment
from pipeline.objective.row_losses import best_constant_loss
from pipeline.representations.hog import HogOptions
from pipeline.training import stored_references as reading
from pipeline.training.curve_names import explained_shares
from pipeline.training.fit import CURVES, fit
from pipeline.training.module import StudentModule
from pipeline.training.stored_references import stored_references

HALVES: dict[str, Any] = {
    "kind": "regression", "loss": "cosine_smooth_l1", "layers": 2, "whiten": 1, "relative": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    make_data(root)
    return root


def curves(path: Path) -> list[dict[str, float]]:
    with (path / CURVES).open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_references_are_the_first_valid_rows_of_the_store(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SAMPLE", 30)
    run = make_run(data, {"hog": HALVES})
    chosen = [i for i in range(250) if i % 7 != 2]  # more than one tar
    subset = run.train.subset(chosen)
    whole = torch.from_numpy(FeatureStore(data / "features.zarr")["hog"].read("train")).float()
    found = stored_references(subset, run.objective)["hog"]
    assert found.index.tolist() == chosen[:30]
    assert torch.equal(found.rows, whole[chosen[:30]])
    mean, deviation = run.train.features["hog"].statistics()
    assert found.mean is not None
    assert found.deviation is not None
    assert np.array_equal(found.mean.numpy(), mean)
    assert np.array_equal(found.deviation.numpy(), deviation)
    bank = make_run(data, {"hog": {"kind": "affinity", "bank": 120}})
    assert stored_references(subset, bank.objective)["hog"].index.tolist() == chosen[:120]
    dependence = make_run(data, {"hog": {"kind": "dependence"}})
    assert len(stored_references(subset, dependence.objective)["hog"].rows) == 0


def test_principal_components_are_known_as_such_and_may_be_rotated(
    data: Path, tmp_path: Path
) -> None:
    rotated = {"hog": {"kind": "regression", "loss": "cosine_smooth_l1", "whiten": "phi_s"}}
    unreduced = make_run(data, rotated, epochs=1)
    assert not stored_references(unreduced.train, unreduced.objective)["hog"].uncorrelated
    with pytest.raises(ConfigError, match=r"set features\.hog\.reduce"):
        fit(unreduced, work=tmp_path / "work", progress=Silent())
    make_data(tmp_path, HogOptions.model_validate({"cell": 4, "reduce": {"pca": 16}}))
    run = make_run(tmp_path, rotated, epochs=4)
    assert stored_references(run.train, run.objective)["hog"].uncorrelated
    fit(run, work=tmp_path / "run", progress=Silent())
    rows = curves(tmp_path / "run")
    assert rows[-1]["validation/explained/hog"] > 0.05


def test_a_run_with_every_new_term_learns_and_explains(data: Path, tmp_path: Path) -> None:
    terms = {
        "hog": {**HALVES, "drop": 0.5, "weight": {"from": 4, "to": 1, "schedule": "linear"}},
        "raw": {"kind": "regression", "representation": "hog", "relative": True, "drop": 0.5},
        "near": {"kind": "affinity", "representation": "hog", "bank": 100},
        "white": {"kind": "dependence", "representation": "hog", "whiten": 0.5, "on": "h"},
        "barlow": {"weight": 0.1},
        "sigreg": {"weight": 0.02, "directions": 64},
    }
    fit(make_run(data, terms, epochs=4, precision="bf16"), work=tmp_path, progress=Silent())
    rows = curves(tmp_path)
    assert rows[-1]["validation/objective"] < rows[0]["validation/objective"]
    for name in terms:
        trivial, value = rows[-1][f"validation/trivial/{name}"], rows[-1][f"validation/term/{name}"]
        share = rows[-1][f"validation/explained/{name}"]
        assert share == pytest.approx(1 - value / trivial, abs=1e-3)
        assert rows[0][f"validation/explained/{name}"] < share < 1
    assert rows[-1]["validation/trivial/hog"] == rows[-1]["validation/trivial/raw"] == 1
    weights = [row["train/weight/hog"] for row in rows]  # means over five steps of twenty
    assert weights == pytest.approx([4 - 3 * (2 + 5 * epoch) / 19 for epoch in range(4)], rel=1e-4)


def test_the_best_constant_of_the_training_targets_stands_beside_a_regression(
    data: Path, tmp_path: Path
) -> None:
    shown: list[str] = []

    class Noting(Silent):
        def note(self, text: str) -> None:
            shown.append(text)

    run = make_run(data, {"hog": {"kind": "regression"}}, epochs=2)
    fit(run, work=tmp_path, progress=Noting())
    stored = torch.from_numpy(run.train.features["hog"].read("train")).float()
    row = curves(tmp_path)[-1]
    expected = best_constant_loss("cosine", stored).item()
    assert row["validation/trivial/hog"] == pytest.approx(expected, rel=1e-4)
    ((name, share),) = explained_shares(row)
    assert name == "hog"
    assert f"explained: hog {100 * share:.0f} %" in shown[-1]


def test_curves_know_the_largest_class_of_the_images_that_probes_are_scored_on(
    data: Path, tmp_path: Path
) -> None:
    run = make_run(data, {"invariance": {}, "variance": {}}, epochs=1)
    fit(run, work=tmp_path, progress=Silent())
    labels = torch.cat([batch["labels"] for batch in EvaluationLoader(run.validation, 50)])
    (row,) = curves(tmp_path)
    assert row["validation/labelled"] == len(labels)
    largest = torch.bincount(labels).max().item() / len(labels)
    assert row["validation/largest_class"] == pytest.approx(100 * largest, rel=1e-4)


def test_a_store_without_statistics_refuses_whitening_and_nothing_else(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoredFeature, "reduction", lambda _: ({}, {}))  # as stored before
    run = make_run(data, {"hog": {"kind": "dependence", "whiten": 0.5}})
    with pytest.raises(StoreError, match="mvmr extract-features --only hog --force"):
        fit(run, work=tmp_path / "white", progress=Silent())
    plain = make_run(data, {"hog": {"kind": "affinity", "relative": True}}, epochs=1)
    fit(plain, work=tmp_path / "plain", progress=Silent())


def test_steps_say_where_they_are_and_validation_knows_no_training_image(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments: list[tuple[bool, Moment, bool]] = []
    built = StudentModule.__init__

    def watched(module: StudentModule, *given: Any, **options: Any) -> None:
        built(module, *given, **options)
        module.objective.register_forward_pre_hook(
            lambda objective, _, told: moments.append(
                (objective.training, told["moment"], told["index"] is not None)
            ),
            with_kwargs=True,
        )

    monkeypatch.setattr(StudentModule, "__init__", watched)
    run = make_run(data, {"hog": {"kind": "regression"}}, epochs=2)
    fit(run, work=tmp_path, progress=Silent())
    training = [moment for trains, moment, known in moments if trains and known]
    others = [moment for trains, moment, known in moments if not trains and not known]
    assert len(training) + len(others) == len(moments)
    assert [moment.progress for moment in training] == pytest.approx([i / 9 for i in range(10)])
    assert len({moment.seed for moment in training}) == 10
    half = len(others) // 2
    assert [m.seed for m in others[:half]] == [m.seed for m in others[half:]]
