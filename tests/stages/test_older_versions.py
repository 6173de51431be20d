"""Results of older versions are accepted: shards, a store, a finished run and its dvc.lock.

`golden/before_rooms.tar.xz` was made by `dvc repro` with version 0.1.0 before its modules were put
into packages: 40 images of two shades, three features of three stored types, one epoch.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from pages import ROOT
from PIL import Image

from mvmr import load_encoder
from pipeline.base.digests import sha256_of
from pipeline.features.store import FeatureStore
from pipeline.shards.listing import read_names
from pipeline.shards.manifest import read_manifests
from stages.terminal.cli import run

BIN = Path(sys.executable).parent
needs_commands = pytest.mark.skipif(
    not (BIN / "mvmr").exists(), reason="needs the installed commands: make setup"
)
ARCHIVE = ROOT / "tests/golden/before_rooms.tar.xz"


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the older project, as the working directory."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(root: Path) -> dict[str, int]:
    """Return the modification time of each file of shards, store and run."""
    places = (root / "data/shades/shards", root / "data/shades/features.zarr", root / "runs/before")
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    assert len(files) > 40
    return {str(file): file.stat().st_mtime_ns for file in files}


def test_every_stage_is_done(older: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["doctor", "--json"])
    states = json.loads(capsys.readouterr().out)["stages"]
    assert len(states) == 7
    assert {state["condition"] for state in states} == {"done"}


@pytest.mark.parametrize("stage", ["shard", "extract-features", "train"])
def test_no_stage_makes_anew_what_is_there(older: Path, stage: str) -> None:
    before = written(older)
    assert run([stage, "--quiet"]) == 0
    assert written(older) == before


def test_what_is_computed_stays_when_the_images_change(
    older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of a format that does not say which image they are of, while the shards still do."""
    before, rows = splits(older), features(older)
    Image.new("RGB", (8, 8), (9, 80, 200)).save(older / "photos/dark/new.png")
    (older / "photos/dark/00.png").rename(older / "photos/dark/renamed.png")
    assert run(["shard", "--json", "--quiet"]) == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert (changes["new"], changes["renamed"]) == (["dark/new.png"], ["dark/renamed.png"])
    assert not any(changes[what] for what in ("gone", "replaced", "moved", "relabelled"))
    assert run(["extract-features"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("40 of 41 rows taken over, 1 to compute.") == 3
    before["dark/renamed.png"] = before.pop("dark/00.png")
    after = splits(older)
    assert after.pop("dark/new.png") in before.values()
    assert after == before
    for name, values in features(older).items():
        values.pop("dark/new.png")
        rows[name]["dark/renamed.png"] = rows[name].pop("dark/00.png")
        assert values == rows[name]
    assert run(["train", "--quiet"]) == 0


def splits(root: Path) -> dict[str, str]:
    shards = root / "data/shades/shards"
    return {
        name: split
        for split, manifest in read_manifests(shards).items()
        for name in read_names(shards / split, manifest)
    }


def features(root: Path) -> dict[str, dict[str, bytes]]:
    shards, store = root / "data/shades/shards", FeatureStore(root / "data/shades/features.zarr")
    return {
        feature: {
            name: row.tobytes()
            for split, manifest in read_manifests(shards).items()
            for name, row in zip(
                read_names(shards / split, manifest), store[feature].read(split), strict=True
            )
        }
        for feature in store.names()
    }


def test_store_and_checkpoint_are_read(older: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", "verify", "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert not any(part["damaged"] for part in parts)
    module, preprocessing = load_encoder("runs/before/checkpoints/best.pt")
    assert module(preprocessing("photos/dark/00.png")[None]).shape == (1, 64)


@pytest.fixture
def under_dvc(older: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the older project as a DVC project of this version."""
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, older / name)
    call("git", "init", "-q")
    call("git", "config", "user.name", "test")
    call("git", "config", "user.email", "test@example.org")
    call("dvc", "init", "-q")
    return older


def call(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@needs_commands
@pytest.mark.usefixtures("under_dvc")
def test_dvc_accepts_the_lock() -> None:
    assert run(["store", "look", "--quiet"]) == 0
    found = json.loads(call("dvc", "status", "--json"))
    for name in ("source@shades", "select@before", "keep@before"):
        assert "always changed" in found.pop(name)
    # The listing of the images is new, and the cache is missing; all results match the lock.
    listing, shards = found.pop("shard@shades")
    assert listing == {"changed deps": {"data/shades/source.json": "modified"}}
    assert len(found) == 6
    changed = [shards, *(change for changes in found.values() for change in changes)]
    # Extraction follows the whole section now, and its command finds all rows stored.
    section = {"changed deps": {"params.yaml": {"dataset": "new"}}}
    assert changed.count(section) == sum(name.startswith("extract@") for name in found)
    changed = [change for change in changed if change != section]
    assert {why for each in changed for why in each["changed outs"].values()} == {"not in cache"}


@pytest.mark.slow
@needs_commands
def test_nothing_is_computed_again_by_dvc(under_dvc: Path) -> None:
    """The version before left results in DVC's cache, and their older names in `dvc.lock`."""
    lock = (under_dvc / "dvc.lock").read_text()
    assert run(["store", "look", "--quiet"]) == 0
    call("dvc", "commit", "--force")
    (under_dvc / "dvc.lock").write_text(lock)
    (under_dvc / "data/shades/source.json").unlink()
    call("git", "add", "--all")
    call("git", "commit", "-qm", "older")
    before, timed = contents(under_dvc), times(under_dvc)
    call("dvc", "exp", "run")
    after = contents(under_dvc)
    assert {name: after.get(name) for name in before} == before
    assert times(under_dvc) == timed


def contents(root: Path) -> dict[str, str]:
    """Return the digest of each file of shards, store and run, but for the report."""
    names = [name for name in written(root) if "report" not in Path(name).name]
    return {name: sha256_of(Path(name)) for name in names}


def times(root: Path) -> dict[str, str]:
    """Return the records of how long stages took."""
    return {str(file): file.read_text() for file in root.glob("*/*/times/*.json")}
