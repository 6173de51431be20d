"""Ctrl-C and SIGTERM: one sentence that says how to go on, exit code 1, and no traceback.

Stopping loses nothing: every stage keeps what is finished, and the same command goes on from
there. A signal ends the program at once while libraries are being imported, and raises
KeyboardInterrupt otherwise. A second signal ends the program at once.
"""

import atexit
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pipeline.base.signals import answer_by, answers_restored

CODE = 1
PATIENCE_SECONDS = 0.5  # after which the user is told what the program waits for
CLOSING_SECONDS = 2.0  # for the interpreter's last work after an interruption

_asked = False
_tell: Callable[[str], None] | None = None
_arguments: list[str] = []


def listen(arguments: list[str]) -> None:
    """Answer signals from now on; `arguments` are those of the command to resume."""

    def unraisable(problem: Any) -> None:
        # As in a finaliser, where Python cannot raise: the interruption would be lost.
        if isinstance(problem.exc_value, KeyboardInterrupt):
            _leave(signal.SIGINT, None)
        sys.__unraisablehook__(problem)

    _arguments[:] = arguments
    # The interpreter's last work takes a second with torch in memory, and hands signals back to
    # the system before it ends, which would end the process by the signal: not so if ignored.
    atexit.register(answer_by, signal.SIG_IGN)
    sys.unraisablehook = unraisable
    answer_by(_unwind)


def tell_by(tell: Callable[[str], None]) -> None:
    """Use `tell` to say that a signal has arrived, where ending takes longer than a moment."""
    global _tell
    _tell = tell


def sentence(arguments: list[str]) -> str:
    """Return how to go on: by DVC where DVC runs the stage, else by the same command."""
    under_dvc = "DVC_STAGE" in os.environ
    command = "dvc repro" if under_dvc else shlex.join(["mvmr", *arguments])
    return f"Interrupted. What is finished is kept; go on with: {command}"


def too_late() -> str:
    """Return that the command had finished before it could be stopped."""
    return "Interrupted, but by then everything was done: there is nothing to go on with."


def farewell() -> None:
    """Ignore signals and say nothing more: the last sentence is being printed."""
    global _tell
    answer_by(signal.SIG_IGN)
    _tell = None


def was_asked() -> bool:
    """Return whether a signal has come. Whatever fails after it fails because of it."""
    return _asked


def end(code: int) -> None:
    """Prepare the end of the process: a signal now only shortens the interpreter's last work.

    After an interruption that work closes what it can, silently, and gets two seconds for it:
    worker processes also end by themselves when this one has ended.
    """
    answer_by(lambda *_: os._exit(code))
    if _asked:
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _later(CLOSING_SECONDS, lambda: os._exit(code))


@contextmanager
def at_once() -> Iterator[None]:
    """Let a signal end the program at once, while nothing is under way that must be unwound.

    An exception raised within an import may be swallowed, or reported by a library as its own.
    """
    if signal.getsignal(signal.SIGINT) is not _unwind:  # a test or another program calls us
        yield
        return
    with answers_restored():
        answer_by(_leave)
        yield


def _unwind(number: int, frame: FrameType | None) -> None:
    global _asked
    if _asked:
        _leave(number, frame)
    _asked = True
    _later(PATIENCE_SECONDS, _say_that_it_ends)
    raise KeyboardInterrupt


def _later(seconds: float, act: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


def _say_that_it_ends() -> None:
    if _tell is not None:
        _tell("Stopping: what is finished is kept. Ctrl-C again ends it at once.")


def _leave(_: int, __: FrameType | None) -> None:
    """End the program here and now, the terminal as it was."""
    answer_by(signal.SIG_IGN)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and stream.isatty():
            os.write(stream.fileno(), b"\r\x1b[2K\x1b[?25h")  # the progress line; the cursor
    os.write(2, f"{sentence(_arguments)}\n".encode())
    os._exit(CODE)
