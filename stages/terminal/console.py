"""Output while a command runs: what it will do, its progress, and lines that stay.

On a terminal, progress is a bar with count, rate and time left. Elsewhere, and with TERM=dumb,
it is plain lines, one per phase and one every half minute, so that a log shows what is going on.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from pipeline.base.progress import Step
from pipeline.base.text import counted
from stages.terminal import proposal

PLAIN_SECONDS = 30.0  # between two lines of progress if the output is not a terminal
FIRST_SECONDS = 2.0  # after which a phase gets a line of its own there
RECENT_SECONDS = 60.0  # from whose rate the time left is told
FILE_WIDTH = 120


class Screen:
    """The output of a stage; used as a context manager, it shows progress.

    `quiet` suppresses everything but errors. `as_json` reserves standard output for the one
    document at the end, and sends everything else to standard error.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        stream = sys.stderr if as_json else sys.stdout
        width = None if stream.isatty() else FILE_WIDTH
        self._console = Console(file=stream, quiet=quiet, width=width, highlight=False)
        self.progress = ConsoleProgress(self._console)
        self.told: dict[str, Any] = {}

    def __enter__(self) -> "Screen":
        self.progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.__exit__()

    def begin(self, title: str, rows: Mapping[str, str], values: Mapping[str, Any]) -> None:
        """Announce what the command will do; `values` hold the same for JSON."""
        self.told = dict(values)
        self.progress.finish()
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, text in rows.items():
            grid.add_row(name, text)
        self.print(Text(title, style="bold"), grid)

    def print(self, *shown: RenderableType) -> None:
        """Print lines and tables that stay on the screen."""
        for item in shown:
            whole = isinstance(item, str)
            text = proposal.sentence(item) if isinstance(item, str) else item
            self._console.print(text, soft_wrap=whole, markup=False)


class ConsoleProgress:
    """A bar with count, rate and time left, or plain lines where nothing can be redrawn.

    Used as a context manager; implements `pipeline.base.progress.Progress`.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._moves = console.is_terminal and not console.is_dumb_terminal
        self._bar = _Bars(console, disable=not self._moves)
        self._task: TaskID | None = None
        self._what, self._unit, self._status = "", "", ""
        self._total = self._done = self._foreseen = 0
        self._began = self._said = 0.0
        self._recent = deque[tuple[float, int]]()  # times, and what was done by then
        self._told = False
        self._lock = threading.RLock()
        self._over = threading.Event()

    def __enter__(self) -> "ConsoleProgress":
        self._bar.start()
        if not self._moves and not self._console.quiet:
            threading.Thread(target=self._speak_now_and_then, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.finish()
        self._bar.stop()

    def start(self, what: str, total: int, unit: str, *, step: Step | None = None) -> None:
        """Begin a phase; a `total` of 0 means that its length is unknown."""
        with self._lock:
            self.finish()
            self._what, self._unit, self._total = what, unit, total
            self._done = self._foreseen = 0
            self._began = self._said = time.monotonic()
            self._recent = deque([(self._began, 0)])
            self._status, self._told = "", False
            self._task = self._bar.add_task(what, total=total or None, rate="", status="")

    def advance(self, count: int, status: str = "") -> None:
        """Show that `count` more units are done; a `status` is shown until the next one."""
        with self._lock:
            before = self._shown
            self._done += count
            self._status = status or self._status
            self._show(moved=self._shown > before)

    def foresee(self, done: int) -> None:
        """Show that `done` units are done, some of pieces that are not; all count alike."""
        with self._lock:
            before = self._shown
            self._foreseen = done
            self._show(moved=self._shown > before)

    @property
    def _shown(self) -> int:
        return max(self._done, self._foreseen)

    def _show(self, *, moved: bool) -> None:
        if moved:
            self._remember()
        if self._task is not None:
            beside = ", ".join([self._count(), self._rate(), *self._left()])
            self._bar.update(self._task, completed=self._shown, rate=beside, status=self._status)

    def note(self, text: str) -> None:
        """Print one line that stays; a log gets it unwrapped."""
        whole = not self._moves
        told = proposal.sentence(text)
        self._console.print(told, markup=False, highlight=False, soft_wrap=whole)

    def finish(self) -> None:
        """End the phase, with a line about its time unless it was short and counted nothing."""
        with self._lock:
            if self._task is None:
                return
            self._bar.remove_task(self._task)
            self._task = None
            seconds = time.monotonic() - self._began
            if self._done and self._unit:
                done = counted(self._done, self._unit)
                self.note(f"{self._what}: {done} in {seconds:.1f} s, {self._rate()}")
            elif seconds >= FIRST_SECONDS:
                self.note(f"{self._what}: {seconds:.1f} s")

    def _speak_now_and_then(self) -> None:
        while not self._over.wait(FIRST_SECONDS / 4):
            with self._lock:
                due = PLAIN_SECONDS if self._told else FIRST_SECONDS
                if self._task is not None and time.monotonic() - self._said >= due:
                    self._speak()

    def _speak(self) -> None:
        self._said, self._told = time.monotonic(), True
        if not self._shown:
            self.note(f"{self._what}: {self._status}" if self._status else f"{self._what} ...")
            return
        beside = [self._count(), self._rate(), *self._left()]
        self.note(f"{self._what}: {', '.join([*beside, *filter(None, [self._status])])}")

    def _remember(self) -> None:
        """Keep the recent past: after a pause, two more counts are enough to forget it."""
        now = time.monotonic()
        self._recent.append((now, self._shown))
        while len(self._recent) > 2 and now - self._recent[0][0] > RECENT_SECONDS:
            self._recent.popleft()

    def _count(self) -> str:
        if not self._total:
            return counted(self._shown, self._unit)
        return f"{self._shown:,} of {counted(self._total, self._unit)}"

    def _left(self) -> list[str]:
        if not self._shown or not self._total:
            return []
        (then, before), (now, _) = self._recent[0], self._recent[-1]
        rest = max(0, self._total - self._shown)
        seconds = rest * (now - then) / (self._shown - before)
        return [f"{seconds:.0f} s left" if seconds < 100 else f"{seconds / 60:.0f} min left"]

    def _rate(self) -> str:
        elapsed = time.monotonic() - self._began
        rate = self._shown / elapsed if elapsed > 0 else 0.0
        return f"{rate:.3g} {self._unit}/s" if rate < 100 else f"{rate:.0f} {self._unit}/s"


class _Bars(Progress):
    """Bars that vanish when they are done; the status has its own line below the bar."""

    def __init__(self, console: Console, *, disable: bool) -> None:
        super().__init__(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=disable,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars and, below them, each status, cut to the width."""
        tasks: Sequence[Task] = self.tasks
        yield self.make_tasks_table(tasks)
        for task in tasks:
            if task.fields["status"]:
                text = Text(f"  {task.fields['status']}", style="dim", no_wrap=True)
                text.truncate(self.console.width, overflow="ellipsis")
                yield text


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1
) -> Table:
    """Return a table whose first columns are text and whose others are numbers."""
    result = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_header=any(columns),
    )
    for number, column in enumerate(columns):
        result.add_column(
            column, justify="left" if number < text_columns else "right", overflow="fold"
        )
    for row in rows:
        result.add_row(*row)
    return result
