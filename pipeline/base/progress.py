"""Reporting the progress of long operations."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, runtime_checkable

# Phases whose times plans and reports use.
Step = Literal["shard", "sample", "measure", "extract", "train"]


@runtime_checkable
class Progress(Protocol):
    """Receives the progress of a long operation; a stage draws it."""

    def start(self, what: str, total: int, unit: str, *, step: Step | None = None) -> None:
        """Begin a phase of `total` units, 0 if unknown; it ends when the next phase begins.

        `what` is shown to people. `step` identifies the phases that programs look for.
        """
        ...

    def advance(self, count: int, status: str = "") -> None:
        """Report that `count` more units are done; `status` is shown until the next one."""
        ...

    def note(self, text: str) -> None:
        """Show one line that stays."""
        ...


@runtime_checkable
class Foresight(Protocol):
    """A Progress that also shows units of larger pieces of work, before these are done."""

    def foresee(self, done: int) -> None:
        """Report that `done` units of the phase are done, if pieces that are not are counted."""
        ...


def foresee(progress: Progress, done: int, status: str) -> None:
    """Report units of pieces that are not done: as a count, or else as a `status`."""
    if isinstance(progress, Foresight):
        progress.foresee(done)
    else:
        progress.advance(0, status)


@contextmanager
def not_kept(what: str, progress: Progress) -> Iterator[None]:
    """On an interruption or an error, tell the user that `what` is lost; other work is kept."""
    try:
        yield
    except (KeyboardInterrupt, OSError):
        progress.note(f"Interrupted: {what} starts over the next time.")
        raise


class Silent:
    """A Progress that nobody watches."""

    def start(self, what: str, total: int, unit: str, *, step: Step | None = None) -> None:
        """Do nothing."""

    def advance(self, count: int, status: str = "") -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""
