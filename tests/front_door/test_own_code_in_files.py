"""An experiment file that names the user's own code gives what the same calls from Python give."""

import hashlib
import importlib
import linecache
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import stranger
import torch
from ruamel.yaml import YAML
from stranger import SIDE, photos

import mvmr
from pipeline.base.errors import ConfigError
from stages.experiment.schema import load
from stages.terminal.cli import run

OWN = {
    "student": {"architecture": "python:stranger:network", "trust": True},
    "features": {
        "brightness": {"kind": "python:stranger:brightness", "trust": True, "dtype": "float32"}
    },
    "objective": {
        "shrink": {"kind": "python:stranger:shrink", "trust": True},
        "towards": {
            "kind": "python:stranger:towards",
            "trust": True,
            "needs": ["original"],
            "representation": "brightness",
        },
    },
    "evaluate": {
        "knn": {"ks": [5]},
        "nearest_mean": {"kind": "python:stranger:nearest_mean", "trust": True},
    },
}
COMMANDS = ("shard", "extract-features", "train", "evaluate", "report", "export")


def experiment(root: Path) -> dict[str, Any]:
    return {
        "name": "mine",
        "seed": 3,
        "dataset": {
            "name": "photos",
            "source": {"kind": "image_folder", "root": str(root / "photos")},
            "split": {"seed": 0, "validation": 0.2, "test": 0.2},
            "shards": {"samples": 50},
            "image": {"size": SIDE, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
        },
        "train": {"epochs": 2, "batch_size": 16, "lr": 1e-3, "parallel": {"accelerator": "cpu"}},
        **OWN,
    }


def written(root: Path, sections: dict[str, Any]) -> Path:
    with (root / "mine.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(sections, file)
    return root / "mine.yaml"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which every command has run on the experiment."""
    root = tmp_path_factory.mktemp("files")
    photos(root / "photos", each=30)
    file, before = written(root, experiment(root)), Path.cwd()
    os.chdir(root)
    try:
        for command in COMMANDS:
            assert run([command, "-c", file.name]) == 0, command
    finally:
        os.chdir(before)
    return root


def test_by_file_and_by_python_weights_are_equal_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    found = mvmr.run_experiment(folder / "mine.yaml", out=tmp_path / "runs/mine")
    by_file = torch.load(folder / "runs/mine/checkpoints/best.pt", weights_only=True)
    by_call = torch.load(found.checkpoint, weights_only=True)
    assert by_file["encoder"].keys() == by_call["encoder"].keys()
    for name, value in by_file["encoder"].items():
        assert torch.equal(value, by_call["encoder"][name]), name
    ours, theirs = (
        root / "metrics/nearest_mean.json" for root in (folder / "runs/mine", found.path)
    )
    assert ours.read_text() == theirs.read_text()


def test_registered_code_gives_the_same_weights_as_importable_code(
    folder: Path, tmp_path: Path
) -> None:
    mvmr.register_representation("brightness", stranger.brightness)
    mvmr.register_term("shrink", stranger.shrink)
    mvmr.register_term("towards", stranger.towards)
    mvmr.register_protocol("nearest_mean", stranger.nearest_mean)
    sections = experiment(folder) | {
        "student": {"architecture": mvmr.register_student("network", stranger.network)},
        "features": {"brightness": {"dtype": "float32"}},
        "objective": {
            "shrink": {},
            "towards": {"needs": ["original"], "representation": "brightness"},
        },
        "evaluate": {"nearest_mean": {}},
    }
    found = mvmr.run_experiment(sections, out=tmp_path / "mine")
    by_file = torch.load(folder / "runs/mine/checkpoints/best.pt", weights_only=True)
    by_call = torch.load(found.checkpoint, weights_only=True)
    for name, value in by_file["encoder"].items():
        assert torch.equal(value, by_call["encoder"][name]), name


def test_the_file_beside_a_run_gives_the_run_again_by_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "photos", each=30)
    train = {"epochs": 1, "batch_size": 16, "parallel": {"accelerator": "cpu"}}
    made = mvmr.pretrain(
        tmp_path / "photos",
        student="resnet8",
        image=mvmr.Image(SIDE),
        out=tmp_path / "runs/mine",
        features={"hog": {"cell": 8}},
        train=train,
        evaluate={"knn": {"ks": [5]}},
    )
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    for command in COMMANDS[:3]:
        assert run([command, "-c", str(made.path / "experiment.yaml")]) == 0
    again = torch.load(other / "runs/mine/checkpoints/best.pt", weights_only=True)
    first = torch.load(made.checkpoint, weights_only=True)
    assert again["about"]["digest"] == first["about"]["digest"]
    for name, value in first["encoder"].items():
        assert torch.equal(value, again["encoder"][name]), name


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("student", ""),
        ("features", "brightness"),
        ("objective", "shrink"),
        ("evaluate", "nearest_mean"),
    ],
)
def test_code_that_is_not_trusted_does_not_run(section: str, key: str, tmp_path: Path) -> None:
    sections: dict[str, Any] = experiment(tmp_path)
    entry = {**sections[section], **({} if key else {"trust": False})}
    if key:
        entry[key] = {**entry[key], "trust": False}
    file = written(tmp_path, {**sections, section: entry})
    path = f"{section}.{key}.trust" if key else f"{section}.trust"
    with pytest.raises(ConfigError, match=f"{path}: 'python:stranger:.*is code that would run"):
        load(file)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("python:no_such_module:network", "No module named 'no_such_module'"),
        ("python:stranger:no_such_thing", "no attribute 'no_such_thing'"),
        ("python:stranger:SIDE", "is not a function; found int"),
        ("own:never", "No student 'never' is registered"),
    ],
)
def test_code_that_cannot_be_found_is_named(name: str, reason: str, folder: Path) -> None:
    sections = experiment(folder) | {"student": {"architecture": name, "trust": True}}
    with pytest.raises(ConfigError, match=reason):
        mvmr.run_experiment(sections, out=folder / "none", data=folder / "data/photos")


def test_changed_code_trains_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "data", tmp_path / "data")
    (tmp_path / "changing.py").write_text("def loss(h, k):\n    return (h - k).square().mean()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    term = {"kind": "python:changing:loss", "trust": True}
    sections = experiment(folder) | {"objective": {"loss": term}, "evaluate": {}}

    def trained() -> str:
        return digest(mvmr.run_experiment(sections, out="runs/a", data="data/photos").checkpoint)

    first = trained()
    assert trained() == first
    (tmp_path / "changing.py").write_text("def loss(h, k):\n    return 2 * (h - k).abs().mean()\n")
    linecache.checkcache()
    importlib.reload(sys.modules["changing"])
    assert trained() != first


def test_names_that_are_taken_are_refused() -> None:
    for register in (mvmr.register_term, mvmr.register_representation, mvmr.register_protocol):
        taken = {"register_term": "variance", "register_protocol": "knn"}
        name = taken.get(register.__name__, "hog")
        with pytest.raises(ConfigError, match=f"found '{name}'"):
            register(name, stranger.brightness)
    with pytest.raises(ConfigError, match="without a colon"):
        mvmr.register_student("a:b", stranger.network)
