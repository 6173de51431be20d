"""What all tests share."""

import os

# Small problems gain nothing from threads, and lose much where cores are shared; processes that
# tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # importing dcor hands torch all cores again

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the digits experiment has been run, command by command."""
    from digits_run import run_all

    root = tmp_path_factory.mktemp("project")
    run_all(root)
    return root


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return that folder, as the working directory."""
    monkeypatch.chdir(project)
    return project
