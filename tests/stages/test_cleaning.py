"""`mvmr store clean` lists what nothing needs, with its size, and removes only that."""

import json
from pathlib import Path

import pytest
from growing import Collection

from pipeline.base.errors import StoreError
from pipeline.base.locks import exclusive
from stages.terminal.cli import run


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a store with a superseded feature, a stopped extraction and a stopped run."""
    root = tmp_path / "data" / "photos"
    root.mkdir(parents=True)
    photos = Collection(root, store=root / "features.zarr")
    photos.add(*range(60))
    photos.pack()
    photos.extract()
    photos.extract(width=3)
    (root / "work" / "hog-0123456789abcdef").mkdir()
    (root / "work" / "hog-0123456789abcdef" / "chunk").write_bytes(b"x" * 2_000_000)
    (tmp_path / "runs" / ".unfinished" / "abc").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, int]:
    assert run(["store", "clean", "--json", "-q", *options]) == 0
    rows = json.loads(capsys.readouterr().out)["leftovers"]
    return {row["kind"]: row["bytes"] for row in rows}


def test_what_is_left_is_listed_with_its_size(
    left: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listed(capsys) == {}
    found = listed(capsys, "--days", "0")
    assert found.keys() == {"stopped run", "superseded feature", "stopped extraction"}
    assert found["stopped extraction"] == 2_000_000
    assert found["superseded feature"] > 60 * 6 * 2
    assert (left / "data/photos/work/hog-0123456789abcdef").exists()
    assert run(["store", "clean", "--days", "0"]) == 0
    assert "superseded/counted-" in capsys.readouterr().out


def test_removing_leaves_what_is_used(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = left / "data/photos/features.zarr"
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    assert len(listed(capsys, "--days", "0", "--remove")) == 3
    assert listed(capsys, "--days", "0") == {}
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*")} == before


def test_what_is_being_worked_on_stays(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = left / "data/photos/work/lock"
    with exclusive(lock, StoreError("busy")):
        assert listed(capsys, "--days", "0", "--remove").keys() == {"stopped run"}
    assert len(listed(capsys, "--days", "0")) == 2


def test_object_storage_is_left_alone(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert left.exists()
    assert run(["store", "clean", "--data", "s3://bucket/data"]) == 1
    assert "with the tools of the service" in capsys.readouterr().err
