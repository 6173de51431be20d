"""Colleagues share results: `dvc push` in one clone, `dvc pull` in another."""

from pathlib import Path

import pytest
from test_dvc import QUICK, Project, pytestmark

__all__ = ["pytestmark"]


class Clone(Project):
    """Another clone of a project's repository."""

    def __init__(self, root: Path, origin: Project) -> None:
        origin.call("git", "clone", "--quiet", str(origin.root), str(root))
        self.root = root


@pytest.fixture
def pushed(tmp_path: Path) -> Project:
    """Return a project whose results have been pushed to a remote in a folder."""
    (tmp_path / "first").mkdir()
    project = Project(tmp_path / "first")
    remote = str(tmp_path / "remote")
    project.call("dvc", "remote", "add", "--default", "shared", remote)
    assert {"shard", "extract@hog", "extract@local_std", "train"} <= project.repro()
    project.commit()
    project.call("dvc", "push")
    return project


def test_a_second_clone_pulls_features_and_trains_without_extracting(
    pushed: Project, tmp_path: Path
) -> None:
    clone = Clone(tmp_path / "second", pushed)
    assert not (clone.root / "data").exists()
    clone.call("dvc", "pull", "shard", "extract", "select")
    store = Path("data", "digits", "features.zarr")
    files = sorted(p.relative_to(pushed.root) for p in (pushed.root / store).rglob("*"))
    assert files == sorted(p.relative_to(clone.root) for p in (clone.root / store).rglob("*"))
    assert not (clone.root / "runs" / "digits" / "checkpoints").exists()
    clone.params({"train": {**QUICK["train"], "lr": 5e-3}})  # type: ignore[dict-item]
    assert clone.repro() == {"train", "evaluate@knn", "evaluate@retrieval", "report"}
    clone.call("mvmr", "store", "verify")


def test_a_second_clone_pulls_everything_and_only_checks(pushed: Project, tmp_path: Path) -> None:
    clone = Clone(tmp_path / "second", pushed)
    clone.call("dvc", "pull")
    assert clone.repro() == set()
