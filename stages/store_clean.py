"""`mvmr store clean`: list or remove what nothing needs any more, with what it costs.

That is: training runs that were stopped and abandoned, results that are kept of runs with other
options, features that others of the same name have replaced, and extractions that were stopped.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import RenderableType

from pipeline.base.errors import StoreError
from pipeline.base.locations import names_in, remove_tree
from pipeline.base.locks import exclusive
from pipeline.features.store import FeatureStore
from pipeline.features.store.writer import LOCK
from stages.experiment.finished import kept_results
from stages.experiment.paths import DatasetLayout, unfinished_runs
from stages.terminal.console import Screen
from stages.terminal.result import Column, Result, megabytes, rows_table

SECONDS_A_DAY = 86_400


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


COLUMNS = (
    Column("kind", "what"),
    Column("name", "name"),
    Column("saved", "last used", _moment),
    Column("bytes", "MB", megabytes),
)
Kind = Literal["stopped run", "kept result", "superseded feature", "stopped extraction"]


@dataclass(frozen=True)
class Leftover:
    """A directory that can be removed, when it was last used, and its size in bytes.

    `lock` is held by whoever still works on it.
    """

    kind: Kind
    path: Path
    lock: Path
    saved: float
    bytes: int
    about: str = ""

    @property
    def name(self) -> str:
        """What it is of, or where it lies."""
        return self.about or str(self.path)


def store_clean(screen: Screen, *, data: str, days: float, remove: bool) -> Result:
    """List or remove abandoned runs and extractions, and superseded features."""
    if "://" in data:
        raise StoreError(
            f"{data} is not on this machine: remove the folders `superseded` and `work` of a data "
            "set with the tools of the service, while nobody extracts."
        )
    screen.progress.start("look for what is no longer used", 0, "")
    oldest = time.time() - days * SECONDS_A_DAY
    found = [leftover for leftover in _leftovers(Path(data)) if leftover.saved <= oldest]
    rows = [
        {
            "kind": it.kind,
            "name": it.about or str(it.path),
            "path": str(it.path),
            "saved": it.saved,
            "bytes": it.bytes,
        }
        for it in found
        if not remove or _remove(it)
    ]
    values = {"removed": remove, "leftovers": rows}
    if not found:
        return Result(values, [f"Nothing has been unused for {days:g} days."])
    shown: list[RenderableType] = [
        rows_table("removed" if remove else "no longer used", COLUMNS, rows),
        f"{megabytes(sum(it.bytes for it in found))} MB together. A superseded feature is used "
        "again without being computed if an experiment asks for it, and so is a kept result.",
    ]
    again = ["mvmr", "store", "clean", "--days", f"{days:g}", "--remove"]
    return Result(values, shown[: 1 if remove else 2], [] if remove else again)


def _leftovers(data: Path) -> Iterator[Leftover]:
    for path in sorted(unfinished_runs().glob("*/")):
        yield _leftover("stopped run", path, path.with_suffix(".lock"))
    for kept in kept_results():
        if kept.bytes:  # otherwise a run shows the same files
            lock = kept.path.with_suffix(".lock")
            about = f"{kept.run}: {kept.what}"
            yield Leftover("kept result", kept.path, lock, kept.when, kept.bytes, about)
    for root in sorted(data.glob("*/")):
        layout = DatasetLayout(root)
        lock = root / "work" / LOCK
        superseded = FeatureStore(layout.features).superseded
        for name in sorted(names_in(superseded)):
            yield _leftover("superseded feature", root / superseded.name / name, lock)
        for name in sorted(names_in(layout.work) - {LOCK}):
            yield _leftover("stopped extraction", root / "work" / name, lock)


def _leftover(kind: Kind, path: Path, lock: Path) -> Leftover:
    stats = [file.stat() for file in path.rglob("*") if file.is_file()] or [path.stat()]
    last = max(stat.st_mtime for stat in stats)
    if kind == "superseded feature":  # moving a directory changes its ctime, not its files' times
        last = max(last, path.stat().st_ctime)
    return Leftover(kind, path, lock, last, sum(s.st_size for s in stats))


def _remove(leftover: Leftover) -> bool:
    """Remove a directory and return True, unless another process works on it."""
    try:
        with exclusive(leftover.lock, StoreError("busy")):
            remove_tree(leftover.path)
    except StoreError:
        return False
    return True
