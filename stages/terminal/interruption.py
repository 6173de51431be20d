"""Ctrl-C and SIGTERM: one sentence on how to continue, exit code 1, and no traceback.

Every stage keeps finished work, and the same command resumes it; other commands start again. While
libraries are being imported, a signal ends the program at once; otherwise it raises
KeyboardInterrupt. A second signal always ends the program at once.
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
PATIENCE_SECONDS = 0.5  # then the user is told that the program is stopping
# Commands that keep what they finish. The others write at their end, or only look.
RESUMED = ("shard", "extract-features", "train", "evaluate", "store")
UNWINDING_SECONDS = 1.2  # for work that loses nothing if its unwinding is cut short

_asked = _bidden = False
_most_seconds: float | None = None  # that unwinding may take
_tell: Callable[[str], None] | None = None
_arguments: list[str] = []


def listen(arguments: list[str]) -> None:
    """Answer signals from now on; `arguments` are those of the command to repeat."""

    def unraisable(problem: Any) -> None:
        # Python cannot raise in a finaliser, for example: the interruption would be lost.
        if isinstance(problem.exc_value, KeyboardInterrupt):
            _leave(signal.SIGINT, None)
        sys.__unraisablehook__(problem)

    _arguments[:] = arguments
    # With torch in memory, the interpreter's shutdown takes a second. It resets signal handlers
    # before it ends, so a signal would then kill the process; ignored signals stay ignored.
    atexit.register(answer_by, signal.SIG_IGN)
    sys.unraisablehook = unraisable
    answer_by(_unwind)


def tell_by(tell: Callable[[str], None]) -> None:
    """Use `tell` to say that a signal has arrived, if ending takes longer than a moment."""
    global _tell
    _tell = tell


def sentence(arguments: list[str]) -> str:
    """Return how to continue: with DVC if it runs the stage, else with the same command."""
    command = "dvc repro" if _is_of_dvc() else shlex.join(["mvmr", *arguments])
    if resumes(arguments):
        return f"Interrupted. Finished work is kept. Continue with: {command}"
    return f"Interrupted. Unfinished work is not kept. Start again with: {command}"


def resumes(arguments: list[str]) -> bool:
    """Return whether a command, if it is repeated, continues from what it has finished."""
    named = next((word for word in arguments if not word.startswith("-")), "")
    return named in RESUMED or _is_of_dvc()


def _is_of_dvc() -> bool:
    return "DVC_STAGE" in os.environ


def too_late() -> str:
    """Return the message that the command had finished before it could be stopped."""
    return "Interrupted, but the command had already finished."


def farewell() -> None:
    """Ignore signals and say nothing more: the last sentence is being printed."""
    global _tell, _bidden
    answer_by(signal.SIG_IGN)
    _tell, _bidden = None, True


def was_asked() -> bool:
    """Return whether a signal has arrived. Any later failure is a consequence of it."""
    return _asked


def has_ended_a_command() -> bool:
    """Return whether a command of this process was interrupted, and has said so."""
    return _bidden


def end(code: int) -> None:
    """Prepare the end of the process: from now on, a signal only cuts its shutdown short.

    After an interruption, there is no shutdown, in which threads of libraries take seconds or abort
    the process. Worker processes end by themselves once this process has ended.
    """
    answer_by(lambda *_: os._exit(code))
    if _asked:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def soon() -> Iterator[None]:
    """Let a signal end the program after `UNWINDING_SECONDS`, for work that keeps what is finished.

    What such work would unwind, as a cluster, may take long on a busy machine.
    """
    global _most_seconds
    _most_seconds = UNWINDING_SECONDS
    try:
        yield
    finally:
        if not _asked:
            _most_seconds = None


@contextmanager
def at_once() -> Iterator[None]:
    """Let a signal end the program at once, for work that needs no clean-up, such as imports.

    A library may swallow an exception raised within an import, or report it as its own.
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
    if _most_seconds is not None:
        _later(_most_seconds, lambda: _leave(number, frame))
    raise KeyboardInterrupt


def _later(seconds: float, act: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


def _say_that_it_ends() -> None:
    if _tell is not None:
        kept = "what is finished is kept. " if resumes(_arguments) else ""
        _tell(f"Stopping: {kept}Ctrl-C again ends it at once.")


def _leave(_: int, __: FrameType | None) -> None:
    """End the program at once, and restore the terminal."""
    answer_by(signal.SIG_IGN)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None and stream.isatty():
            os.write(stream.fileno(), b"\r\x1b[2K\x1b[?25h")  # the progress line; the cursor
    if not _bidden:
        os.write(2, f"{sentence(_arguments)}\n".encode())
    os._exit(CODE)
