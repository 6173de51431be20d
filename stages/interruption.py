"""Ctrl-C and SIGTERM: one sentence that says how to go on, exit code 1, and no traceback.

Nothing is lost by stopping: what is finished is kept by every stage, and the same command goes
on from there. So a signal ends the program at once where nothing is under way, as while
libraries are being imported, and unwinds it by KeyboardInterrupt otherwise.
"""

import atexit
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CODE = 1

_asked = False
_arguments: list[str] = []


def listen(arguments: list[str]) -> None:
    """Answer signals from now on; `arguments` are those of the command that is to be resumed."""

    def unraisable(problem: Any) -> None:
        # As in a finaliser, where Python cannot raise: the interruption would be lost.
        if isinstance(problem.exc_value, KeyboardInterrupt):
            _leave(signal.SIGINT, None)
        sys.__unraisablehook__(problem)

    _arguments[:] = arguments
    # The interpreter's last work takes a second with torch in memory, and hands signals back to
    # the system before it ends, which would end the process by the signal: not so if ignored.
    atexit.register(_answer_by, signal.SIG_IGN)
    sys.unraisablehook = unraisable
    for number in SIGNALS:
        signal.signal(number, _unwind)


def sentence(arguments: list[str]) -> str:
    """Say how to go on: by DVC where it runs the stage, else by the same command."""
    under_dvc = "DVC_STAGE" in os.environ
    command = "dvc repro" if under_dvc else shlex.join(["mvmr", *arguments])
    return f"Interrupted. What is finished is kept; go on with: {command}"


def was_asked() -> bool:
    """Whether a signal has come: whatever fails from then on fails because of it."""
    return _asked


def end(code: int) -> None:
    """Take leave: all is said, and a signal only makes the interpreter's last work shorter.

    What was interrupted is closed by that work, as far as it can be, and says so no more.
    """
    _answer_by(lambda *_: os._exit(code))
    if _asked:
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@contextmanager
def at_once() -> Iterator[None]:
    """Let a signal end the program at once: nothing is under way that could be unwound.

    An exception raised within an import may be swallowed, or reported by a library as its own.
    """
    if signal.getsignal(signal.SIGINT) is not _unwind:  # a test or another program calls us
        yield
        return
    _answer_by(_leave)
    try:
        yield
    finally:
        _answer_by(_unwind)


def _answer_by(handler: Any) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


def _unwind(_: int, __: FrameType | None) -> None:
    global _asked
    _asked = True
    raise KeyboardInterrupt


def _leave(_: int, __: FrameType | None) -> None:
    """End the program here and now, the terminal as it was."""
    _answer_by(signal.SIG_IGN)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and stream.isatty():
            os.write(stream.fileno(), b"\r\x1b[2K\x1b[?25h")  # the progress line; the cursor
    os.write(2, f"{sentence(_arguments)}\n".encode())
    os._exit(CODE)
