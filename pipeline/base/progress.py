"""How a long operation tells its caller where it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

# Phases whose times plans and reports use.
Step = Literal["shard", "sample", "measure", "extract", "train"]


class Progress(Protocol):
    """How a long operation tells its caller where it is; a stage draws it."""

    def start(self, what: str, total: int, unit: str, *, step: Step | None = None) -> None:
        """Begin a phase of `total` units, 0 if they cannot be counted; the next one ends it.

        `what` is shown to people. `step` identifies the phases that programs look for.
        """
        ...

    def advance(self, count: int, status: str = "") -> None:
        """Say that `count` more units are done; a `status` stands until the next one."""
        ...

    def note(self, text: str) -> None:
        """Say one line that stays."""
        ...


@contextmanager
def not_kept(what: str, progress: Progress) -> Iterator[None]:
    """Tell the user that an interruption undoes `what`; other work is kept."""
    try:
        yield
    except KeyboardInterrupt:
        progress.note(f"Interrupted: {what} begins anew the next time.")
        raise


class Silent:
    """A Progress that nobody watches."""

    def start(self, what: str, total: int, unit: str, *, step: Step | None = None) -> None:
        """Do nothing."""

    def advance(self, count: int, status: str = "") -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""
