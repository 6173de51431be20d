"""Several processes of one run: which one is the first, and which one handles Ctrl-C."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, NoReturn

RANKS = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")


def is_first_process() -> bool:
    """Whether this process is the one that writes files, known even before a trainer exists.

    torchrun, SLURM and Lightning's own launcher number their processes in the environment.
    """
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


# The first process has printed its message and ended after so long.
FOLLOWING_SECONDS = 5.0


def leave_the_message_to_the_first(error: BaseException) -> NoReturn:
    """End this process without a message, for an error that the first process reports too.

    It waits first: launchers end all other processes as soon as one has failed.
    """
    time.sleep(FOLLOWING_SECONDS)
    raise SystemExit(1) from error


@contextmanager
def without_the_script() -> Iterator[None]:
    """Keep processes that are started within this context from importing the user's script.

    They need nothing of it, and without `if __name__ == "__main__"` it would run in each of them.
    """
    main: Any = sys.modules["__main__"]
    before = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    for name in before:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(main, name, value)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Keep Ctrl-C and the user's script from threads and processes started in this context.

    The first process handles Ctrl-C, and ends the others. They inherit the signal mask of this
    thread, and so do processes that those threads start later.
    """
    resource_tracker.ensure_running()  # else the first process starts it, which resets the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with without_the_script():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
