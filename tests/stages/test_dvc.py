"""DVC runs only what changed, and finds earlier results again."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BIN / "mvmr").exists(), reason="needs the installed commands: make setup"
    ),
]
QUICK = {
    "student": {"architecture": "resnet8", "projector": [16]},
    "train": {"epochs": 1, "batch_size": 128, "lr": 1e-3},
    "features": {"hog": {"cell": 4}, "local_std": {}},
    "objective": {"variance": {}, "invariance": {}, "hog": {"kind": "dependence"}},
    "evaluate": {"knn": {}, "retrieval": {}},
}


ALWAYS = {"source", "select", "keep"}


def stages_run(output: str) -> set[str]:
    """Return the stages that DVC ran, such as `shard` and `extract@hog`.

    Their names in `dvc.yaml` also name the data set and the run: `extract@digits-hog`.
    """
    names = re.findall(r"^Running stage '(.+)'", output, re.MULTILINE)
    parts = [re.fullmatch(r"(\w+)@[^-]+(?:-(.+))?", name) for name in names]
    return {"@".join(filter(None, found.groups())) for found in parts if found}


class Project:
    """A separate repository with the tracked files that DVC and the commands read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
            shutil.copy(ROOT / name, root / name)
        (root / ".dvc").mkdir()
        for name in ("config", ".gitignore"):
            shutil.copy(ROOT / ".dvc" / name, root / ".dvc" / name)
        self.params({})
        self.call("git", "init", "--quiet")
        self.commit()

    def params(self, changes: Mapping[str, Any]) -> None:
        """Write params.yaml, a quick digits experiment with these sections replaced."""
        data = YAML(typ="safe", pure=True).load(ROOT / "configs" / "digits.yaml")
        with (self.root / "params.yaml").open("w") as file:
            YAML().dump({**data, **QUICK, **changes}, file)

    def call(self, *command: str) -> str:
        """Run a command in the project and return what it prints."""
        paths = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            command,
            cwd=self.root,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": paths, "DVC_NO_ANALYTICS": "1"},
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def commit(self) -> None:
        """Commit all files."""
        who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        self.call("git", "add", "--all")
        self.call("git", *who, "commit", "--quiet", "--allow-empty", "-m", "state")

    def repro(self) -> set[str]:
        """Run `dvc repro` and return the stages that ran, without those that always run."""
        return stages_run(self.call("dvc", "repro")) - ALWAYS


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    result = Project(tmp_path_factory.mktemp("project"))
    assert result.repro() == {
        *("shard", "extract@hog", "extract@local_std", "train"),
        *("evaluate@knn", "evaluate@retrieval", "report"),
    }
    result.commit()
    return result


def test_a_second_run_only_checks(project: Project) -> None:
    output = project.call("dvc", "repro")
    assert stages_run(output) == ALWAYS


def test_nothing_but_the_lock_file_is_left_for_git(project: Project) -> None:
    status = project.call("git", "status", "--porcelain")
    assert status == ""
    assert not list(project.root.glob("data/**/.gitignore"))


def test_a_learning_rate_trains_and_evaluates_only(project: Project) -> None:
    project.params({"train": {**QUICK["train"], "lr": 2e-3}})  # type: ignore[dict-item]
    assert project.repro() == {"train", "evaluate@knn", "evaluate@retrieval", "report"}


def test_a_new_feature_extracts_itself_only(project: Project) -> None:
    project.params({"features": {**QUICK["features"], "dct": {}}})  # type: ignore[dict-item]
    ran = project.repro()
    assert {stage for stage in ran if stage.startswith("extract")} == {"extract@dct"}
    assert not ran & {"shard", "train"}


def test_going_to_another_experiment_and_back_makes_nothing_anew(project: Project) -> None:
    project.params({})
    project.repro()
    other = {
        "name": "other",
        "features": {"hog": {"cell": 4}, "pixels": {}},
        "objective": {"hog": {"kind": "regression"}},
    }
    project.params(other)
    assert "train" in project.repro()
    project.params({})
    assert project.repro() == set()


def test_no_stored_feature_on_a_fresh_clone(tmp_path: Path) -> None:
    fresh = Project(tmp_path)
    fresh.params(
        {
            "features": {},
            "objective": {"invariance": {}, "variance": {}, "pixels": {"kind": "dependence"}},
        }
    )
    ran = fresh.repro()
    assert "train" in ran
    assert not [stage for stage in ran if stage.startswith("extract")]


def test_experiments_metrics_params_and_plots(project: Project) -> None:
    project.params({})
    project.repro()
    project.commit()
    output = project.call("dvc", "exp", "run", "-S", "train.lr=0.004")
    assert stages_run(output) - ALWAYS == {"train", "evaluate@knn", "evaluate@retrieval", "report"}
    shown = project.call("dvc", "metrics", "show")
    assert "top1" in shown
    assert len(next(line for line in shown.splitlines() if "scores/knn.json" in line)) < 300
    assert "0.004" in project.call("dvc", "params", "diff")
    page = project.call("dvc", "plots", "show").strip().removeprefix("file://")
    text = Path(page).read_text()
    for curve in ("train/objective", "validation/probe_top1", "validation/knn_top1"):
        assert curve in text
    assert "predictions_knn" in text
