"""Processes that this one starts, and Ctrl-C: a terminal sends it to all of them at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def deaf_children() -> Iterator[None]:
    """Let threads and processes that are started meanwhile not see Ctrl-C.

    The first process answers, and ends the others. They inherit the mask of this thread, and so
    do processes that its threads start later.
    """
    resource_tracker.ensure_running()  # at the first process, which would undo the mask for it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
