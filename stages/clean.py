"""`mvmr store clean`: unfinished training runs that nobody goes on with."""

import time
from dataclasses import dataclass
from pathlib import Path

import click

from pipeline.errors import TrainingError
from pipeline.runtime import exclusive
from pipeline.storage import remove_tree
from stages.console import table
from stages.layout import unfinished_runs
from stages.options import console

SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Unfinished:
    """A run that was stopped: where it is, when it was last saved, and its bytes."""

    path: Path
    saved: float
    bytes: int


@click.command("clean")
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    default=7.0,
    show_default=True,
    help="Only runs that have not been saved for so long.",
)
@click.option("--remove", is_flag=True, help="Remove them; otherwise they are only listed.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def command(days: float, remove: bool, quiet: bool) -> None:
    """List unfinished training runs that were abandoned, or remove them.

    A run that is being trained is left alone.
    """
    screen = console(quiet=quiet)
    abandoned = [run for run in _unfinished() if time.time() - run.saved >= days * SECONDS_A_DAY]
    if not abandoned:
        screen.print("There are no abandoned runs.")
        return
    rows = [
        [run.path.name, time.strftime("%Y-%m-%d %H:%M", time.localtime(run.saved)), _size(run)]
        for run in abandoned
        if not remove or _remove(run)
    ]
    title = "removed" if remove else "abandoned; --remove removes them"
    screen.print(table(title, ["run", "last saved", "MB"], rows))


def _unfinished() -> list[Unfinished]:
    found = []
    for path in sorted(unfinished_runs().glob("*/")):
        stats = [file.stat() for file in path.rglob("*") if file.is_file()] or [path.stat()]
        found.append(
            Unfinished(path, max(s.st_mtime for s in stats), sum(s.st_size for s in stats))
        )
    return found


def _remove(run: Unfinished) -> bool:
    """Remove a run, unless another process trains it."""
    lock = run.path.with_suffix(".lock")
    try:
        with exclusive(lock, TrainingError("busy")):
            remove_tree(run.path)
            lock.unlink()
    except TrainingError:
        return False
    return True


def _size(run: Unfinished) -> str:
    return f"{run.bytes / 1e6:.1f}"
