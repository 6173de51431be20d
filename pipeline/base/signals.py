"""Ctrl-C and SIGTERM: which answer they get.

A program has one answer at a time. Work that can be saved first asks to be stopped between two
steps (`stoppable`); what answers otherwise is up to the program, for commands
`stages/terminal/interruption.py`.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.base.progress import Progress

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def answer_by(handler: Any) -> None:
    """Answer both signals by `handler` from now on. Only the main thread receives signals."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, handler)


@contextmanager
def answers_restored() -> Iterator[None]:
    """Restore the answers at the end, whatever was put in their place meanwhile."""
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
        """Answer signals from now on."""
        answer_by(self._answer)

    def _answer(self, number: int, _: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._progress.note(
            f"{signal.Signals(number).name}: saving after this step. Once more to stop at once."
        )


@contextmanager
def stoppable(progress: Progress) -> Iterator[Stop]:
    """Yield a `Stop` that can listen to signals; their earlier answers are restored at the end."""
    with answers_restored():
        yield Stop(progress)
