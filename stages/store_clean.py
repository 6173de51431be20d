"""`mvmr store clean`: list or remove unfinished training runs that were abandoned."""

import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import TrainingError
from pipeline.base.locations import remove_tree
from pipeline.base.locks import exclusive
from stages.experiment.paths import unfinished_runs
from stages.terminal.console import Screen
from stages.terminal.result import Column, Result, megabytes, rows_table

SECONDS_A_DAY = 86_400


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


COLUMNS = (
    Column("run", "run"),
    Column("saved", "last saved", _moment),
    Column("bytes", "MB", megabytes),
)


@dataclass(frozen=True)
class Unfinished:
    """A run that was stopped: its directory, when it was last saved, and its size in bytes."""

    path: Path
    saved: float
    bytes: int


def store_clean(screen: Screen, *, days: float, remove: bool) -> Result:
    """List or remove unfinished training runs that were abandoned."""
    screen.progress.start("look for unfinished runs", 0, "")
    abandoned = [run for run in _unfinished() if time.time() - run.saved >= days * SECONDS_A_DAY]
    rows = [
        {"run": run.path.name, "saved": run.saved, "bytes": run.bytes}
        for run in abandoned
        if not remove or _remove(run)
    ]
    values = {"removed": remove, "runs": rows}
    if not abandoned:
        return Result(values, ["There are no abandoned runs."])
    shown = rows_table("removed" if remove else "abandoned", COLUMNS, rows)
    again = ["mvmr", "store", "clean", "--days", f"{days:g}", "--remove"]
    return Result(values, [shown], [] if remove else again)


def _unfinished() -> list[Unfinished]:
    found = []
    for path in sorted(unfinished_runs().glob("*/")):
        stats = [file.stat() for file in path.rglob("*") if file.is_file()] or [path.stat()]
        found.append(
            Unfinished(path, max(s.st_mtime for s in stats), sum(s.st_size for s in stats))
        )
    return found


def _remove(run: Unfinished) -> bool:
    """Remove a run and return True, unless another process is training it."""
    lock = run.path.with_suffix(".lock")
    try:
        with exclusive(lock, TrainingError("busy")):
            remove_tree(run.path)
    except TrainingError:
        return False
    return True
