"""Working on when a place behind a URL is out of reach for a while."""

import time
from collections.abc import Callable
from functools import wraps
from threading import Event
from typing import ParamSpec, TypeVar

from pipeline.base.locations import is_out_of_reach

P = ParamSpec("P")
R = TypeVar("R")

# The libraries of the services try for some seconds; a link may be down for longer.
PATIENCE_SECONDS = 120.0
PAUSE_SECONDS = 5.0

ENDED = Event()  # whether the tasks of this process are to end


def patient(function: Callable[P, R]) -> Callable[P, R]:
    """Call a function, which may be repeated, again while the places it uses are out of reach.

    The last error is raised if they have been so for two minutes since the call began to fail.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        failing_since = None
        while True:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                now = time.monotonic()
                failing_since = failing_since or now
                over = now - failing_since > PATIENCE_SECONDS
                if over or not is_out_of_reach(error) or ENDED.wait(PAUSE_SECONDS):
                    raise

    return call
