"""What the user sees: progress, lines that stay, and results as tables."""

import time
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

PLAIN_SECONDS = 30.0  # between two lines of progress where the output is not a terminal


class ConsoleProgress:
    """A bar with count, rate and time left; plain lines where the output is not a terminal.

    Used as a context; implements `pipeline.runtime.Progress`.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}  {task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._what, self._unit, self._status = "", "", ""
        self._total = self._done = 0
        self._began = self._said = 0.0

    def __enter__(self) -> "ConsoleProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()
        self._bar.stop()

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin a phase."""
        self._finish()
        self._what, self._unit, self._total, self._done = what, unit, total, 0
        self._began = self._said = time.monotonic()
        self._status = ""
        self._task = self._bar.add_task(what, total=total, unit=unit, rate="", status="")

    def advance(self, count: int, status: str = "") -> None:
        """Say that `count` more units are done; a `status` stands until the next one."""
        self._done += count
        self._status = status or self._status
        if self._task is not None:
            rate = self._rate()
            self._bar.update(self._task, completed=self._done, rate=rate, status=self._status)
        if not self._console.is_terminal and time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            beside = [self._rate(), *self._left(), *([self._status] if self._status else [])]
            done = f"{self._done} of {self._total} {self._unit}"
            self.note(f"{self._what}: {done}, {', '.join(beside)}")

    def note(self, text: str) -> None:
        """Say one line that stays."""
        self._console.print(text, highlight=False)

    def _finish(self) -> None:
        if self._task is None:
            return
        self._bar.remove_task(self._task)
        self._task = None
        if self._done:
            seconds = time.monotonic() - self._began
            self.note(f"{self._what}: {self._done} {self._unit} in {seconds:.1f} s, {self._rate()}")

    def _left(self) -> list[str]:
        if not self._done:
            return []
        elapsed = time.monotonic() - self._began
        seconds = elapsed * (self._total / self._done - 1)
        return [f"{seconds:.0f} s left" if seconds < 100 else f"{seconds / 60:.0f} min left"]

    def _rate(self) -> str:
        elapsed = time.monotonic() - self._began
        rate = self._done / elapsed if elapsed > 0 else 0.0
        return f"{rate:.3g} {self._unit}/s" if rate < 100 else f"{rate:.0f} {self._unit}/s"


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1
) -> Table:
    """Return a table whose first columns are text and whose others are numbers."""
    result = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        result.add_column(
            column, justify="left" if number < text_columns else "right", overflow="fold"
        )
    for row in rows:
        result.add_row(*row)
    return result
