"""`dvc.lock` says what stands in the outputs, whoever made it, and DVC then leaves it alone."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from watched import Watched

from pipeline.base.yaml_file import read_yaml
from stages.experiment.dvc_lock import changed_by_hand, settle
from stages.experiment.dvc_stages import tracked_stages
from stages.experiment.schema import Experiment, load

ROOT = Path(__file__).parents[2]
DVC = Path(sys.executable).parent / "dvc"
pytestmark = pytest.mark.skipif(not DVC.exists(), reason="needs the installed commands: make setup")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a DVC project with hand-made files in some outputs, as the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / ".dvc/site"))
    for name in ("dvc.yaml", ".gitignore"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "params.yaml").write_bytes((ROOT / "configs/digits.yaml").read_bytes())
    made(".dvc/config", "[core]\n    no_scm = true\n    analytics = false\n")
    for out in ("data/digits/shards/train/0.tar", "data/digits/features.zarr/hog/zarr.json"):
        made(out, "by hand")
    made("data/digits/features.zarr/zarr.json", "{}")
    made("data/digits/fidelity/hog.json", "{}")
    for name in ("checkpoints/best.pt", "logs/log", "curves.csv", "metrics/training.json"):
        made(f"runs/digits/{name}", "1")
    return tmp_path


def made(path: str, content: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)


def dvc(*arguments: str) -> str:
    command = [str(DVC), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def experiment() -> Experiment:
    return load(Path("params.yaml"))


def tell(*stages: str) -> list[str]:
    progress = Watched()
    changed_by_hand(experiment(), stages, progress)
    return progress.notes


def settled(of: Experiment | None = None) -> None:
    """Do what `mvmr use` does."""
    progress = Watched()
    settle(of or experiment(), progress)
    assert progress.notes == []


def entries() -> Any:
    return read_yaml(Path("dvc.lock"))["stages"]


def contents() -> dict[str, str]:
    places = (Path("data"), Path("runs"))
    return {str(f): f.read_text() for p in places for f in p.rglob("*") if f.is_file()}


def test_dvc_finds_one_pipeline_in_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The links to it that the wheel is made from are not a second one."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "stages/shipped", tmp_path / "stages/shipped")
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    command = [str(DVC), "repro", "--dry"]  # which ends where an output is missing
    done = subprocess.run(command, capture_output=True, text=True)
    assert "shipped" not in done.stderr, done.stderr
    assert "Running stage 'source@robust_digits'" in done.stdout, done.stderr


@pytest.mark.usefixtures("project")
def test_stages_are_those_of_dvc_yaml() -> None:
    from dvc.repo import Repo

    known = {stage.name: stage for stage in tracked_stages(experiment()).values()}
    with Repo() as repo:
        read = {
            stage.name: (stage.cmd, {Path(out.def_path) for out in stage.outs})
            for stage in repo.index.stages
        }
    assert read.pop("keep@digits") == ("mvmr store keep", set())
    assert read == {name: (stage.cmd, set(stage.outs)) for name, stage in known.items()}


@pytest.mark.usefixtures("project")
def test_a_checkout_leaves_alone_what_was_recorded() -> None:
    before = contents()
    settled()
    assert {"shard@digits", "extract@digits-hog", "train@digits"} == set(entries())
    dvc("checkout", "--force", "--allow-missing")
    dvc("gc", "--workspace", "--force")
    dvc("checkout", "--force", "--allow-missing")
    assert contents() == before
    assert set(entries()["shard@digits"]) == {"cmd", "outs"}  # without inputs: the stage will run


@pytest.mark.usefixtures("project")
def test_other_entries_stay_as_they_are() -> None:
    tell("shard", "extract@hog")
    other = entries()["extract@digits-hog"]
    made("data/digits/shards/train/0.tar", "changed by hand")
    before = entries()["shard@digits"]
    tell("shard")
    assert entries()["shard@digits"] != before
    assert entries()["extract@digits-hog"] == other
    written = Path("dvc.lock").stat().st_mtime_ns
    tell("shard", "extract@hog")
    assert Path("dvc.lock").stat().st_mtime_ns == written


@pytest.mark.usefixtures("project")
def test_a_training_by_hand_enters_the_cache() -> None:
    made("runs/digits/targets.json", "{}")
    settled()
    assert {"cmd", "deps", "params", "outs"} == set(entries()["train@digits"])
    before = contents()
    Path("runs/digits/checkpoints/best.pt").unlink()
    dvc("checkout", "--allow-missing")
    assert contents() == before
    assert "train@digits" not in dvc("status")


def test_another_experiment_is_recorded_and_not_committed(project: Path) -> None:
    made("runs/digits/targets.json", "{}")
    settled(load(project / "params.yaml", ["train.lr=0.5"]))
    assert set(entries()["train@digits"]) == {"cmd", "outs"}
    before = contents()
    dvc("checkout", "--force", "--allow-missing")
    assert contents() == before


def test_nothing_is_recorded_under_dvc_or_outside_a_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_by_hand(experiment(), ["shard"], Watched(), data="s3://elsewhere")
    with monkeypatch.context() as within:
        within.setenv("DVC_STAGE", "shard@digits")
        tell("shard")
    (project / "dvc.yaml").rename(project / "elsewhere.yaml")
    tell("shard")
    assert not Path("dvc.lock").exists()


@pytest.mark.usefixtures("project")
def test_a_busy_dvc_is_said_and_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object, **__: object) -> None:
        raise RuntimeError("Unable to acquire lock")

    monkeypatch.setattr("stages.experiment.dvc_lock._record", busy)
    (note,) = tell("shard")
    assert "shard@digits (Unable to acquire lock)" in note


def test_a_long_lock_keeps_whole_entries_of_the_active_experiment_only(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("data", "runs"):
        shutil.rmtree(project / place)
    shutil.copy(ROOT / "params.yaml", project)
    lock = (ROOT / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(lock)
    settled()
    assert (project / "dvc.lock").read_text() == lock
    monkeypatch.setattr("stages.experiment.dvc_lock.LONG", 100)
    before = entries()
    settled(load(project / "params.yaml", ["name=other"]))
    after = entries()
    assert after.keys() == before.keys() - {"keep@robust_digits"}  # which has no outputs
    shard, train = "shard@robust_digits", "train@robust_digits"
    assert after[shard] == before[shard]  # of both
    assert set(after[train]) == {"cmd", "outs"}
    assert after[train]["outs"] == before[train]["outs"]


@pytest.mark.usefixtures("project")
def test_older_names_of_stages_are_renamed() -> None:
    tell("shard", "extract@hog", "train")
    newer = entries()
    names = {"shard@digits": "shard", "extract@digits-hog": "extract@hog", "train@digits": "train"}
    older = {names[name]: entry for name, entry in newer.items()}
    with Path("dvc.lock").open("w") as file:
        YAML().dump({"schema": "2.0", "stages": older}, file)
    tell("shard")
    assert entries() == newer
