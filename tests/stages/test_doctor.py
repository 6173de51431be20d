"""`mvmr doctor` on a sound machine, on a broken one, and with stages in every state."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from digits_run import QUICK, ROOT

from pipeline.base.progress import Silent
from pipeline.features.store import FeatureStore
from pipeline.shards.manifest import read_manifest
from stages.experiment import machine_checks
from stages.experiment.experiment_checks import _demanded_by
from stages.experiment.paths import run_layout
from stages.experiment.run_identity import run_key
from stages.experiment.schema import load
from stages.experiment.state import StageState, states
from stages.terminal.cli import run

SETTINGS = QUICK[1::2]


def conditions(*changes: str) -> dict[str, StageState]:
    experiment = load(Path("params.yaml"), [*SETTINGS, *changes])
    return {state.stage: state for state in states(experiment, "data", Silent())}


def doctored(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = run(["doctor", "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def state_of(document: dict[str, Any], check: str) -> dict[str, str]:
    (found,) = [entry for entry in document["checks"] if entry["check"] == check]
    return dict(found)


def test_a_sound_project_is_well(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (".git", ".dvc"):
        (inside / folder).mkdir()
    shutil.copy(ROOT / "dvc.yaml", inside)
    try:
        code, document = doctored(capsys, *QUICK, "-s", "name=fresh")
    finally:
        for folder in (".git", ".dvc"):
            (inside / folder).rmdir()
    assert code == 0, document
    assert {entry["state"] for entry in document["checks"]} <= {"ok", "note"}
    checked = {entry["check"] for entry in document["checks"]}
    assert {"python", "libraries", "torch", "gpu", "cores", "memory", "git", "dvc"} <= checked
    assert {"data/", "runs/", "experiment", "shared memory"} <= checked
    found = {entry["stage"]: entry["condition"] for entry in document["stages"]}
    assert found["shard"] == found["extract@hog"] == "done"
    assert found["train"] == "missing"
    assert found["evaluate@knn"] == found["report"] == "waiting"
    (training,) = [entry for entry in document["stages"] if entry["stage"] == "train"]
    same = shlex.join([*QUICK, "-s", "name=fresh"])  # DVC would run params.yaml as it is
    assert document["next"] == training["remedy"] == f"mvmr train {same}"


def test_a_poor_place_says_what_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").write_text("a file is in the way")
    (tmp_path / "params.yaml").write_text("name: [broken\n")
    code, document = doctored(capsys)
    assert code == 1
    assert document["ok"] is False
    wrong = {entry["check"]: entry for entry in document["checks"] if entry["state"] == "mend"}
    assert set(wrong) == {"data/", "experiment", "git", "dvc"}
    assert all(entry["remedy"] for entry in wrong.values())
    assert "line" in wrong["experiment"]["found"]
    assert document["stages"] == []


def test_weights_that_training_starts_from_and_that_are_missing_are_to_be_put_there(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("-s", "name=fresh", "-s", "student.weights=gone.pt")
    code, document = doctored(capsys, *QUICK, *changes)
    assert code == 1
    found = state_of(document, "student")
    assert found["state"] == "mend"
    assert "no file and no finished run 'gone.pt'" in found["found"]


def test_without_an_experiment_it_says_where_to_choose_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _, document = doctored(capsys)
    (entry,) = [entry for entry in document["checks"] if entry["check"] == "experiment"]
    assert str(tmp_path / "params.yaml") in entry["found"]
    assert "set one up with `mvmr init`" in entry["found"]
    assert entry["remedy"] == "choose an experiment, or another file"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("raise ImportError('libcudart.so.12: cannot open')", "libcudart.so.12: cannot open"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "exit code -11"),
    ],
)
def test_a_broken_torch_is_a_finding(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(content)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", "from stages.terminal.cli import main; main()", "doctor"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if found in line]
    assert line.startswith("mend")
    assert "make setup" in done.stdout


def test_libraries_that_are_missing_or_too_old_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    demanded = ["rich>=999", "no-such-library>=1", "click>=8"]
    monkeypatch.setattr(machine_checks, "_project", lambda: {"dependencies": demanded})
    old, missing = machine_checks.library_checks()
    assert (old.check, old.state, old.remedy) == ("rich", "mend", "pip install 'rich>=999'")
    assert "wanted >=999" in old.found
    assert missing.found == "not installed; wanted >=1"


def test_a_full_disk_is_to_be_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sound,) = machine_checks.place_checks([tmp_path / "not" / "yet" / "there"])
    assert sound.state == "ok"
    monkeypatch.setattr(machine_checks, "LEAST_DISK_BYTES", 2**62)
    (full,) = machine_checks.place_checks([tmp_path])
    assert (full.state, "Make room" in full.remedy) == ("mend", True)


def test_what_an_experiment_demands_of_the_machine(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(inside))
    changes = ["train.compile=true", "train.batch_size=9999", "dataset.image.size=4096"]
    experiment = load(Path("params.yaml"), [*SETTINGS, *changes])
    found = {check.check: check for check in _demanded_by(experiment)}
    assert found["compiler"].state == "mend"
    assert found["shared memory"].state == "mend"
    assert "--shm-size" in found["shared memory"].remedy
    gpus = load(Path("params.yaml"), [*SETTINGS, "train.parallel={accelerator: gpu, devices: 99}"])
    assert {c.check for c in _demanded_by(gpus) if c.state == "mend"} == {"devices"}


def test_a_change_makes_stale_what_depends_on_it(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", *QUICK]) == 0
    assert run(["evaluate", *QUICK]) == 0
    capsys.readouterr()
    assert run(["report", *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("A linear classifier on its features") for line in lines)
    assert any(line.startswith("Open runs/digits/report.html in a browser") for line in lines)
    assert lines[-1].startswith("Next: mvmr export")
    assert {state.condition for state in conditions().values()} == {"done"}
    changed = conditions("features.hog.bins=12")
    assert changed["extract@hog"].condition == "stale"
    assert "bins is now 12, was 24" in changed["extract@hog"].found
    assert changed["extract@scattering"].condition == "done"
    assert changed["train"].condition == "waiting"
    changed = conditions("train.lr=5e-3")
    assert changed["train"].condition == "stale"
    assert changed["train"].remedy == "mvmr train"
    changed = conditions("evaluate.knn={ks: [3]}")
    assert changed["evaluate@knn"].condition == "stale"
    assert changed["evaluate@linear"].condition == "done"
    changed = conditions("dataset.split.seed=9")
    assert changed["shard"].condition == "stale"
    assert "split.seed is now 9, was 0" in changed["shard"].found
    assert changed["extract@hog"].condition == "waiting"


def test_what_was_interrupted_is_unfinished_and_named(inside: Path) -> None:
    changes = ["name=halted", "train.lr=7e-3"]
    assert conditions(*changes)["train"].found == ""
    too_large = [*changes, "train.batch_size=5000"]
    assert run(["train", *(w for s in [*SETTINGS, *too_large] for w in ("-s", s))]) == 1
    failed = conditions(*too_large)["train"]
    assert (failed.condition, failed.found) == (
        "missing",
        "the last attempt ended without a result",
    )
    assert conditions(*changes)["train"].condition == "missing"
    experiment = load(Path("params.yaml"), [*SETTINGS, *changes])
    shards = [read_manifest(Path("data/digits/shards") / s) for s in ("train", "validation")]
    store = FeatureStore(Path("data/digits/features.zarr"))
    targets = {name: store[name] for name in experiment.targets()}
    key = run_key(experiment, tuned=["lr"], manifests=shards, targets=targets)
    work = run_layout(experiment.name).unfinished(key)
    work.mkdir(parents=True)
    (work / "resume.ckpt").touch()
    (work / "tuned.json").write_text('{"lr": 0.001}')
    try:
        found = conditions(*changes)["train"]
    finally:
        shutil.rmtree(work)
    assert (found.condition, found.remedy) == ("unfinished", "mvmr train --auto-lr")
    assert str(work) in found.found


def test_damage_and_missing_parts_are_told_apart(inside: Path) -> None:
    feature = inside / "data/digits/features.zarr/hog"
    metadata = feature / "zarr.json"
    sound = metadata.read_bytes()
    try:
        metadata.write_bytes(sound[:50])
        assert conditions()["extract@hog"].condition == "broken"
    finally:
        metadata.write_bytes(sound)
    aside = feature.rename(inside / "aside")
    try:
        found = conditions()["extract@hog"]
        assert (found.condition, found.remedy) == ("missing", "mvmr extract-features --only hog")
    finally:
        aside.rename(feature)
    record = inside / "runs/digits/metrics/knn.json"
    before = record.read_text()
    try:
        record.write_text("{")
        assert conditions()["evaluate@knn"].condition in ("broken", "waiting")
    finally:
        record.write_text(before)
