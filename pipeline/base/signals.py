"""Handling Ctrl-C and SIGTERM.

One handler is active at a time. Work that can be saved installs one that stops it between two
steps (`stoppable`). Otherwise, the program decides: `stages/terminal/interruption.py` handles the
signals for commands.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.base.progress import Progress

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def answer_by(handler: Any) -> None:
    """Handle both signals with `handler` from now on. Has no effect outside the main thread."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, handler)


@contextmanager
def answers_restored() -> Iterator[None]:
    """Restore the current handlers at the end, whatever replaced them meanwhile."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


class Stop:
    """Whether the user has asked the work to stop; a second signal raises KeyboardInterrupt."""

    def __init__(self, progress: Progress) -> None:
        self.asked = False
        self._progress = progress

    def listen(self) -> None:
        """Handle signals from now on."""
        answer_by(self._answer)

    def _answer(self, number: int, _: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._progress.note(
            f"{signal.Signals(number).name}: finishing and saving this step. Repeat it to stop now."
        )


@contextmanager
def stoppable(progress: Progress) -> Iterator[Stop]:
    """Yield a `Stop` that can listen to signals; earlier handlers are restored at the end."""
    with answers_restored():
        yield Stop(progress)
