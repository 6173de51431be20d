"""Finished results are kept, and put back as they were."""

import os
from pathlib import Path

import pytest

from stages.experiment import finished
from stages.experiment.finished import is_kept, keep, kept_results, restore, share
from stages.experiment.paths import run_layout

LINK = os.link
KEY, OTHER = "a" * 64, "b" * 64
RUN = Path("runs/one")
LAYOUT = run_layout("one")
OUTS = (RUN / "checkpoints", RUN / "curves.csv")


@pytest.fixture(params=["links", "no links"], autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Work in an empty folder, of a file system with or without links."""
    monkeypatch.chdir(tmp_path)
    if request.param == "no links":

        def refuse(*_: object) -> None:
            raise OSError("no links here")

        monkeypatch.setattr(os, "link", refuse)
    write("1")


def write(content: str) -> None:
    """Replace the results of the run, as stages do."""
    (RUN / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in ("checkpoints/best.pt", "curves.csv"):
        (RUN / f"{name}.new").write_text(content)
        (RUN / f"{name}.new").replace(RUN / name)


def read() -> dict[str, str]:
    files = sorted(file for file in RUN.rglob("*") if file.is_file())
    return {file.relative_to(RUN).as_posix(): file.read_text() for file in files}


def test_going_back_and_forth() -> None:
    first = read()
    keep(KEY, LAYOUT, OUTS, what="train")
    write("2")
    (RUN / "checkpoints/more.pt").write_text("2")
    second = read()
    keep(OTHER, LAYOUT, OUTS, what="train")
    for _ in range(2):
        restore(KEY, LAYOUT)
        assert read() == first
        restore(OTHER, LAYOUT)
        assert read() == second


def test_what_is_not_whole_is_not_kept() -> None:
    (RUN / "curves.csv").unlink()
    keep(KEY, LAYOUT, OUTS, what="train")
    assert not is_kept(KEY, LAYOUT)


def test_an_interrupted_keeping_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(finished, "write_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            keep(KEY, LAYOUT, OUTS, what="train")
    assert not is_kept(KEY, LAYOUT)
    assert kept_results() == []
    keep(KEY, LAYOUT, OUTS, what="train")
    assert is_kept(KEY, LAYOUT)


def test_results_are_listed_with_what_removing_them_frees() -> None:
    keep(KEY, LAYOUT, OUTS, what="train")
    shared = kept_results()[0].bytes  # none of the two files, where the file system has links
    write("2")
    (kept,) = kept_results()
    assert (kept.run, kept.what, kept.path) == ("one", "train", Path("runs/.finished", KEY[:16]))
    assert kept.bytes - shared in (0, 2)


def test_equal_files_are_shared_again() -> None:
    keep(KEY, LAYOUT, OUTS, what="train")
    write("1")  # as DVC does, which puts links into its cache there
    share(RUN)
    linked = os.link is LINK
    assert (RUN / "curves.csv").samefile(kept_results()[0].path / "files/curves.csv") == linked
    write("2")
    share(RUN)
    restore(KEY, LAYOUT)
    assert read()["curves.csv"] == "1"
