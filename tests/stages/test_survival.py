"""Work survives kills at random moments, a full disk, dying workers, and DVC's restores."""

import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from pipeline.models.checkpoint import BEST, LAST
from pipeline.training.saving import RESUME

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
pytestmark = pytest.mark.skipif(
    not (BIN / "mvmr").exists(), reason="needs the installed commands: make setup"
)
KILLS = 20
FEATURES: dict[str, Any] = {
    "scattering": {"J": 2, "L": 8, "reduce": {"pca": 64}},
    "hog": {"cell": 4, "dtype": "int8"},
}
# Five epochs of nine steps; every step is saved.
TRAINING: dict[str, Any] = {
    "student": {"architecture": "resnet8", "projector": [16]},
    "objective": {"variance": {}, "invariance": {}, "hog": {"kind": "dependence"}},
    "train": {"epochs": 5, "batch_size": 128, "lr": 1e-3, "ema": 0.9, "saving": {"steps": 1}},
}


class Project:
    """A folder with a digits experiment; by default, its extraction takes a few seconds."""

    def __init__(self, root: Path, *, configured: bool = False) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        if not configured:
            self.configure(FEATURES)

    def configure(self, features: dict[str, Any], *, size: int = 32, **sections: Any) -> None:
        """Write params.yaml with these features, image size and other sections."""
        data = YAML(typ="safe", pure=True).load(ROOT / "configs" / "digits.yaml")
        data["dataset"]["shards"]["samples"] = 64
        data["dataset"]["image"]["size"] = size
        data["features"] = features
        data["objective"] = {"invariance": {}, "variance": {}}
        data.update(sections)
        with (self.root / "params.yaml").open("w") as file:
            YAML().dump(data, file)

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command of the project, in a process group of its own."""
        paths = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            command,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PATH": paths, "DVC_NO_ANALYTICS": "1"},
        )

    def call(self, *command: str, code: int = 0) -> str:
        """Run a command to its end and return what it prints."""
        process = self.start(*command)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == code, output
        return output

    @property
    def data(self) -> Path:
        """The directory of the data set."""
        return self.root / "data" / "digits"

    def store(self) -> dict[str, bytes]:
        """Return the content of every file of the store."""
        return contents(self.data / "features.zarr")

    def finished_chunks(self) -> dict[str, int]:
        """Return the modification times of finished chunks, by feature, split and number."""
        found = {}
        for marker in self.data.glob("work/*/done/*"):
            split, _, number = marker.name.rpartition("-")
            work = marker.parents[1]
            chunk = work / "feature" / split / "c" / str(int(number)) / "0"
            found[f"{work.name.rpartition('-')[0]}/{split}/c/{int(number)}/0"] = stamp(chunk)
        return found


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def stamp(path: Path) -> int:
    return path.stat().st_mtime_ns


def kill(process: "subprocess.Popen[str]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def wait_for(project: Project, process: "subprocess.Popen[str]", pattern: str) -> None:
    deadline = time.monotonic() + 120
    while not list(project.data.glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("undisturbed"))
    project.call("mvmr", "shard")
    project.call("mvmr", "extract-features", "--workers", "2")
    return project


def beside(project: Project, root: Path) -> Project:
    """Return a project with the shards of another and nothing extracted."""
    result = Project(root)
    for name in ("shards", "features.zarr/zarr.json"):
        (result.data / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (project.data / name).is_dir() else shutil.copy
        copy(project.data / name, result.data / name)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(KILLS // 2))
def test_a_killed_driver_costs_the_shards_in_flight(
    undisturbed: Project, tmp_path: Path, moment: int
) -> None:
    project = beside(undisturbed, tmp_path / "project")
    process = project.start("mvmr", "extract-features", "--workers", "2")
    wait_for(project, process, "work/scattering-*")
    time.sleep(random.Random(moment).uniform(0, 5))
    kill(process)
    before = project.finished_chunks()
    project.call("mvmr", "extract-features", "--workers", "2")
    assert project.store() == undisturbed.store()
    root = project.data / "features.zarr"
    assert {name: stamp(root / name) for name in before} == before


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(KILLS // 2))
def test_a_killed_worker_is_replaced(undisturbed: Project, tmp_path: Path, moment: int) -> None:
    project = beside(undisturbed, tmp_path / "project")
    process = project.start("mvmr", "extract-features", "--workers", "2")
    wait_for(project, process, "work/scattering-*")
    time.sleep(random.Random(moment).uniform(0, 4))
    with suppress(psutil.NoSuchProcess):  # it may have ended by itself
        for child in psutil.Process(process.pid).children(recursive=True):
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()
                break
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert project.store() == undisturbed.store()


def in_dvc(project: Project) -> Project:
    """Turn a project into one that DVC runs."""
    for name in ("dvc.yaml", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (project.root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project.root / name)
    project.call("git", "init", "--quiet")
    commit(project)
    return project


def commit(project: Project) -> None:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    project.call("git", "add", "--all")
    project.call("git", *who, "commit", "--quiet", "--allow-empty", "-m", "state")


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.0, 0.3, 0.6])
def test_a_killed_repro_goes_on(undisturbed: Project, tmp_path: Path, moment: float) -> None:
    project = in_dvc(Project(tmp_path / "project"))
    process = project.start("dvc", "repro", "select")
    wait_for(project, process, "work/scattering-*/done/*")
    time.sleep(moment)
    kill(process)
    before = project.finished_chunks()
    assert before
    project.call("dvc", "repro", "select")
    assert project.store() == undisturbed.store()
    root = project.data / "features.zarr"
    assert {name: stamp(root / name) for name in before} == before


@pytest.mark.slow
def test_a_killed_experiment_goes_on_though_dvc_restores_the_older_output(
    undisturbed: Project, tmp_path: Path
) -> None:
    project = in_dvc(Project(tmp_path / "project"))
    project.configure({**FEATURES, "scattering": {"J": 1, "L": 4}})
    project.call("dvc", "repro", "select")
    commit(project)
    project.configure(FEATURES)
    process = project.start("dvc", "exp", "run", "select")
    wait_for(project, process, "work/scattering-*/done/*")
    time.sleep(0.5)
    kill(process)
    before = project.finished_chunks()
    project.call("dvc", "exp", "run", "select")
    assert project.store() == undisturbed.store()
    root = project.data / "features.zarr"
    assert {name: stamp(root / name) for name in before} == before


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project in which training comes next."""
    project = in_dvc(Project(tmp_path_factory.mktemp("untrained")))
    project.configure({"hog": {"cell": 4}}, size=8, **TRAINING)
    project.call("dvc", "repro", "select")
    return project


@pytest.fixture(scope="module")
def trained(untrained: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return the same project after an undisturbed training."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(untrained.root, root, dirs_exist_ok=True)
    project = Project(root, configured=True)
    project.call("dvc", "repro", "train")
    return project


def results(project: Project) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Return curves and weights of a training, without values that depend on the clock."""
    run = project.root / "runs" / "digits"
    with (run / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["images_per_second"], row["wait_share"]
    weights = {
        f"{file}: {part}.{name}": value
        for file in (BEST, LAST)
        for part, state in torch.load(run / "checkpoints" / file, weights_only=True).items()
        if part in ("encoder", "online_finetuner")
        for name, value in state.items()
    }
    return rows, weights


def wait_for_saves(project: Project, process: "subprocess.Popen[str]", count: int) -> None:
    """Wait until the unfinished run has been saved at least `count` times."""
    seen: set[int] = set()
    deadline = time.monotonic() + 240
    while len(seen) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        for path in project.root.glob(f"runs/.unfinished/*/{RESUME}"):
            with suppress(FileNotFoundError):  # between its two renames
                seen.add(stamp(path))
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(3))
def test_a_killed_training_continues_the_losses_of_an_undisturbed_one(
    untrained: Project, trained: Project, tmp_path: Path, moment: int
) -> None:
    shutil.copytree(untrained.root, tmp_path, dirs_exist_ok=True)
    project, draw = Project(tmp_path, configured=True), random.Random(moment)
    for _ in range(2):  # the second run continues, and is killed too
        process = project.start("dvc", "repro", "train")
        wait_for_saves(project, process, draw.randrange(1, 20))
        time.sleep(draw.uniform(0, 0.05))  # perhaps during a step or a save
        kill(process)
        assert not (project.root / "runs/digits/checkpoints").exists()
    output = project.call("dvc", "repro", "train")
    assert "Continuing the interrupted run" in output
    assert not list(project.root.glob("runs/.unfinished/*/"))
    (rows, weights), (expected, others) = results(project), results(trained)
    assert [int(row["epoch"]) for row in rows] == list(range(1, 6))
    assert rows == expected
    assert weights.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in weights.items())


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """Mount a file system of `size` bytes at `place`; skip the test if that is not allowed."""
    place.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs the right to")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_room_is_enough_to_go_on(
    undisturbed: Project, tmp_path: Path
) -> None:
    project = Project(tmp_path / "project")
    with small_disk(project.data, "16m"):
        beside(undisturbed, project.root)
        ballast = project.data / "ballast"
        free = shutil.disk_usage(project.data).free
        ballast.write_bytes(bytes(free - 120_000))
        output = project.call("mvmr", "extract-features", "--workers", "2", code=1)
        assert "No space is left" in output
        assert "what is finished is kept" in output
        assert "Traceback" not in output
        ballast.unlink()
        project.call("mvmr", "extract-features", "--workers", "2")
        assert project.store() == undisturbed.store()


def test_too_little_room_for_shards_is_said_before_they_are_packed(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    for number in range(150):
        Image.fromarray(np.roll(pixels, number)).save(tmp_path / "images" / f"{number}.png")
    source = f"dataset.source={{kind: image_folder, root: {tmp_path}/images}}"
    with small_disk(project.data, "16m"):
        output = project.call("mvmr", "shard", "-s", source, "-s", "train.batch_size=20", code=1)
        assert re.search(r"Packing 150 images takes 4\d MB, and 1\d MB are free at", output)
        assert not list(project.data.rglob("*.tar"))


@pytest.mark.slow
def test_a_worker_that_dies_on_one_shard_is_named_and_the_others_finish(
    undisturbed: Project, tmp_path: Path
) -> None:
    project = beside(undisturbed, tmp_path / "project")
    process = subprocess.run(
        [sys.executable, "-c", "import deadly; deadly.main()"],
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )
    assert process.returncode == 1, process.stderr
    assert "again and again on test/000003.tar" in process.stderr
    done = {path.name for path in project.data.glob("work/hog-*/done/*")}
    manifests = list(project.data.glob("shards/*/*.tar"))
    assert len(done) == len(manifests) - 1
    assert "test-000003" not in done


def test_a_running_scheduler_with_two_workers_extracts(
    undisturbed: Project, tmp_path: Path
) -> None:
    project = beside(undisturbed, tmp_path / "project")
    where = tmp_path / "scheduler.json"
    started = [
        project.start(
            *("dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
            *("--scheduler-file", str(where)),
        )
    ]
    try:
        deadline = time.monotonic() + 60
        while not where.exists() or not where.read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        address = str(YAML(typ="safe", pure=True).load(where)["address"])
        started += [
            project.start("dask", "worker", address, "--nthreads", "1", "--no-dashboard")
            for _ in range(2)
        ]
        output = project.call("mvmr", "extract-features", "--scheduler", address)
        assert project.store() == undisturbed.store(), output
    finally:
        for process in started:
            kill(process)
