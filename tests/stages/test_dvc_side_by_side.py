"""Nothing is taken away: several experiments, made by DVC and by hand, one of them still training.

`first` and `second` are on one data set, `third` and `long` on another. `first` is active while DVC
is used in every way that writes to the workspace; the others must stay as they are.
"""

import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from test_dvc import BIN, ROOT, Project, pytestmark, stages_run

from pipeline.base.digests import sha256_of
from pipeline.base.yaml_file import read_yaml

__all__ = ["pytestmark"]

OTHER = {"name": "other", "split": {"seed": 1, "validation": 0.1, "test": 0.2}}
TRAIN = {"epochs": 1, "batch_size": 256, "lr": 1e-3}
HOG = {"hog": {"cell": 4}}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "first": {"features": HOG},
    "second": {"features": {**HOG, "local_std": {}}},
    "third": {"features": HOG, "dataset": OTHER},
    "long": {"features": HOG, "dataset": OTHER, "train": {**TRAIN, "epochs": 100_000}},
}
QUICK = {
    "student": {"architecture": "resnet8", "projector": [16]},
    "objective": {"variance": {}, "invariance": {}, "hog": {"kind": "dependence"}},
    "train": TRAIN,
    "evaluate": {"knn": {}},
}
WAYS = {
    "exp run": ["dvc exp run --name one -S train.lr=3e-3"],
    "checkout": ["dvc checkout --force"],
    "push and pull": ["dvc push", "dvc pull"],
    "exp apply": ["dvc exp apply one"],
    "gc": ["dvc gc --workspace --force"],
    "exp run in a copy": ["dvc exp run --temp --name two -S train.lr=2e-3", "dvc exp apply two"],
    "exp run from the queue": [
        "dvc exp run --queue --name three -S train.lr=4e-3",
        "dvc exp run --run-all",
        "dvc exp apply three",
    ],
    "repro": ["dvc repro"],
    "another name": ["dvc exp run -S name=fifth", "mvmr use first --force"],
}


class World(Project):
    """A project with several experiments."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / "configs").mkdir()
        for name, changes in EXPERIMENTS.items():
            self.write(name, changes)
        self.call("git", "config", "user.name", "test")
        self.call("git", "config", "user.email", "test@example.org")
        self.call("dvc", "remote", "add", "--default", "shared", str(root / ".dvc/tmp/remote"))

    def write(self, name: str, changes: Mapping[str, Any]) -> None:
        """Write a config from that of digits."""
        base = read_yaml(ROOT / "configs/digits.yaml")
        dataset = {**base["dataset"], **changes.get("dataset", {})}
        data = {**base, **QUICK, **changes, "name": name, "dataset": dataset}
        with (self.root / f"configs/{name}.yaml").open("w") as file:
            YAML().dump(data, file)

    def by_hand(self, name: str, *commands: str) -> None:
        """Run commands on an experiment that need not be the active one."""
        for command in commands:
            self.call("mvmr", *command.split(), "--quiet", "--config", f"configs/{name}.yaml")

    def digests(self, *places: str) -> dict[str, str]:
        """Return the digest of each file below some folders."""
        return {
            file.relative_to(self.root).as_posix(): sha256_of(file)
            for place in places
            for file in sorted((self.root / place).rglob("*"))
            if file.is_file()
        }

    def of_others(self) -> dict[str, str]:
        """Return the digests of all data, and of the runs of other experiments than `first`."""
        results = ("shards", "features.zarr", "fidelity", "source.json")
        data = [f"data/{name}/{result}" for name in ("digits", "other") for result in results]
        return self.digests(*data, "runs/second", "runs/third")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a project with finished experiments, and one that is training until the end."""
    world = World(tmp_path_factory.mktemp("world"))
    world.call("mvmr", "use", "first", "--force")
    assert {"shard", "extract@hog", "train", "report"} <= world.repro()
    world.by_hand("second", "extract-features", "train", "evaluate")
    world.call("mvmr", "use", "third")
    assert "train" in stages_run(world.call("dvc", "repro", "train"))
    world.by_hand("third", "evaluate")
    world.call("mvmr", "use", "first")
    world.commit()
    command = ["nice", str(BIN / "mvmr"), "train", "--config", "configs/long.yaml"]
    log = world.root / ".dvc/tmp/long.log"
    with log.open("w") as file:
        training = subprocess.Popen(command, cwd=world.root, stdout=file, stderr=file)
        try:
            yield world
            assert training.poll() is None, log.read_text()
            training.send_signal(signal.SIGTERM)
            training.wait(timeout=120)
        finally:
            training.kill()
    assert list((world.root / "runs/.unfinished").glob("*/*.ckpt"))


@pytest.mark.parametrize("way", WAYS)
def test_other_experiments_stay_as_they_are(world: World, way: str) -> None:
    before = world.of_others()
    assert len(before) > 60
    for command in WAYS[way]:
        world.call(*command.split())
        assert world.of_others() == before, command


def test_what_was_trained_by_hand_is_taken_as_it_is(world: World) -> None:
    before = world.digests("runs/second")
    world.call("mvmr", "use", "second")
    assert world.repro() <= {"extract@hog", "extract@local_std", "train", "evaluate@knn", "report"}
    after = world.digests("runs/second")
    assert {name: after[name] for name in before} == before
    assert world.repro() == set()
    for out in ("runs/second/checkpoints/best.pt", "runs/second/metrics/knn.json"):
        (world.root / out).unlink()
    world.call("dvc", "checkout")
    assert world.digests("runs/second") == after


def test_going_back_to_an_earlier_rate_trains_nothing(world: World) -> None:
    world.call("mvmr", "use", "second")
    before = world.digests("runs/second/checkpoints")
    world.by_hand("second", "train -s train.lr=7e-3")
    assert world.digests("runs/second/checkpoints") != before
    world.by_hand("second", "train")
    assert world.digests("runs/second/checkpoints") == before


def test_what_is_newer_is_not_replaced_by_what_is_older(world: World) -> None:
    world.call("mvmr", "use", "second")
    world.repro()  # made by hand, unless another test came first
    assert world.repro() == set()
    older = world.digests("runs/second/checkpoints")
    world.by_hand("second", "train --force -s seed=5", "evaluate -s seed=5")
    newer = world.digests("runs/second/checkpoints", "runs/second/metrics")
    for command in ("checkout --force", "pull --allow-missing"):
        world.call("dvc", *command.split())
        found = world.digests("runs/second/checkpoints", "runs/second/metrics")
        assert found == newer, command
    world.repro()  # of params.yaml, whose results are known
    assert world.digests("runs/second/checkpoints") == older


def test_everything_by_hand_first(tmp_path: Path) -> None:
    """The first command of DVC finds shards, a feature and a training that it has no record of."""
    world = World(tmp_path)
    world.call("mvmr", "use", "first", "--force")
    for command in ("shard", "extract-features", "train", "evaluate"):
        world.call("mvmr", command, "--quiet")
    world.call("mvmr", "use", "first")
    before = world.digests("data/digits", "runs/first")
    world.call("dvc", "exp", "run")
    after = world.digests("data/digits", "runs/first")
    assert {name: after.get(name) for name in before} == before
