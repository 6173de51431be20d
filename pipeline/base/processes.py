"""One process among several: which one it is, and which of them answers Ctrl-C."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

RANKS = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")


def is_first_process() -> bool:
    """Whether this process is the one that writes files, before a trainer exists.

    torchrun, SLURM and Lightning's own launcher number their processes in the environment.
    """
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


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
