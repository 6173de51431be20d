"""DVC's record of its links is made void without changing contents, or looking newer."""

import os
from pathlib import Path

import pytest

from stages.experiment.dvc_links import void_links

SMALL, LARGE = b"small", b"a" * 100


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a DVC project with outputs of each form, as the working directory."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").touch()
    for name, content in {
        "data/one/shards/train/manifest.json": LARGE,
        "data/one/shards/train/000.tar": SMALL,
        "data/one/features.zarr/hog/train/c/0": LARGE,
        "runs/a/checkpoints/best.pt": SMALL,
        "runs/a/checkpoints/last.pt": LARGE,
        "runs/a/curves.csv": LARGE,
        "runs/.finished/key/files/curves.csv": LARGE,
        "runs/a/exports/a.onnx": LARGE,
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def times(root: Path) -> dict[str, int]:
    return {
        file.relative_to(root).as_posix(): file.stat().st_mtime_ns
        for place in ("data", "runs")
        for file in (root / place).rglob("*")
        if file.is_file()
    }


def test_one_light_file_of_each_output_is_set_back(project: Path) -> None:
    before = times(project)
    void_links()
    after = times(project)
    assert {name for name in before if after[name] != before[name]} == {
        "data/one/shards/train/manifest.json",  # tars may be the source of another data set
        "data/one/features.zarr/hog/train/c/0",
        "runs/a/checkpoints/best.pt",
        "runs/a/curves.csv",
    }
    assert all(after[name] <= before[name] for name in before)
    assert (project / "runs/a/checkpoints/best.pt").read_bytes() == SMALL


def test_a_link_stays_a_link(project: Path) -> None:
    curves = project / "runs/a/curves.csv"
    cached = project / "cached"
    os.link(curves, cached)
    cached.chmod(0o444)
    void_links()
    assert cached.samefile(curves)


def test_a_file_of_somebody_else_is_replaced_by_a_copy(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = project / "runs/a/curves.csv"
    real, theirs = os.utime, curves.stat().st_ino

    def refuse(path: Path, ns: tuple[int, int]) -> None:
        if Path(path).stat().st_ino == theirs:
            raise PermissionError
        real(path, ns=ns)

    before = curves.stat()
    monkeypatch.setattr(os, "utime", refuse)
    void_links()
    assert curves.read_bytes() == LARGE
    assert curves.stat().st_ino != theirs
    assert curves.stat().st_mtime_ns < before.st_mtime_ns


def test_nothing_happens_outside_a_dvc_project(project: Path) -> None:
    before = times(project)
    (project / "dvc.yaml").unlink()
    void_links()
    assert times(project) == before
