"""Settings and fixtures that all tests share."""

import os
import shutil

# Threads slow small problems down, most of all on shared cores. Processes that tests start inherit
# this setting.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # else importing dcor gives torch all cores

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Processes that tests start can import the helpers of this folder too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)

if TYPE_CHECKING:
    from pipeline.evaluation.image_set import Images


def pytest_configure(config: pytest.Config) -> None:
    """Compile what dcor compiles at its first import, before the workers of xdist do.

    They would write numba's cache at the same time, and abort on what is half written.
    """
    if getattr(config.option, "numprocesses", None):  # None in the workers
        import dcor  # noqa: F401


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which every command of the digits experiment has been run."""
    from digits_run import run_all

    root = tmp_path_factory.mktemp("project")
    run_all(root)
    return root


@pytest.fixture
def inside(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder, as the working directory: what a test changes is its own."""
    copy = Path(shutil.copytree(project, tmp_path / "project", symlinks=True))
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> "Images":
    """Return small images with one class each, some without a label."""
    from shades import COUNTS, images, single

    return images(tmp_path_factory.mktemp("single"), {s: single(s) for s in COUNTS})


@pytest.fixture(scope="session")
def multi(tmp_path_factory: pytest.TempPathFactory) -> "Images":
    """Return small images with several classes each, some of which are ignored."""
    from shades import COUNTS, images, several

    return images(tmp_path_factory.mktemp("several"), {s: several(s) for s in COUNTS})
