"""How a long operation tells its caller where it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """How a long operation tells its caller where it is; a stage draws it."""

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin a phase of `total` units, 0 if they cannot be counted; the next one ends it."""
        ...

    def advance(self, count: int, status: str = "") -> None:
        """Say that `count` more units are done; a `status` stands until the next one."""
        ...

    def note(self, text: str) -> None:
        """Say one line that stays."""
        ...


@contextmanager
def not_kept(what: str, progress: Progress) -> Iterator[None]:
    """Say of work that an interruption undoes that it is undone: most of it is kept."""
    try:
        yield
    except KeyboardInterrupt:
        progress.note(f"Interrupted: {what} begins anew the next time.")
        raise


class Silent:
    """A Progress that nobody watches."""

    def start(self, what: str, total: int, unit: str) -> None:
        """Do nothing."""

    def advance(self, count: int, status: str = "") -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""
