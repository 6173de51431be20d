"""Threads that work beside the one that starts them, and end with it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from threading import Barrier, Lock
from types import TracebackType
from typing import Self, TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")

_starting = Lock()  # whoever asks at the same time must not get another pool


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Return this process's pool of so many threads, each of which computes on one core.

    It stays until the process ends; whoever asks for as many threads shares it.
    """
    with _starting:
        return _started(threads)


@lru_cache(maxsize=4)
def _started(threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, "mvmr-pool", initializer=_on_one_core)
    # All threads start now: the setting is partly one of the process, and whoever computes beside
    # the pool changes it afterwards.
    everyone = Barrier(threads)
    for started in [pool.submit(everyone.wait) for _ in range(threads)]:
        started.result()
    return pool


def _on_one_core() -> None:
    torch.get_num_threads()  # the first use in a thread takes over the setting of the process
    torch.set_num_threads(1)


def mapped_ahead(
    function: Callable[[Given], Made], items: Iterable[Given], *, threads: int, ahead: int
) -> Iterator[Made]:
    """Yield `function(item)` of each item, in order; up to `ahead` more are begun before.

    Items are taken in the consumer's thread. An exception is raised at its item's turn. When the
    consumer stops, those that are not begun are cancelled, and the others awaited.
    """
    pool, begun = thread_pool(threads), deque[Future[Made]]()
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        wait([future for future in begun if not future.cancel()])


class InOrder:
    """A thread that does what it is given, in order; at most `waiting` calls wait for it.

    Leaving the context with an exception drops the calls that have not begun.
    """

    def __init__(self, waiting: int) -> None:
        self._thread = ThreadPoolExecutor(1, "mvmr-in-order")
        self._waiting, self._failed = waiting, False
        self._given = deque[Future[None]]()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=kind is not None)

    def do(self, function: Callable[..., object], *arguments: object) -> None:
        """Have a function called; first wait until there is room.

        Raises what an earlier call raised. Later calls are then of no use, and are not made.
        """
        self._given.append(self._thread.submit(self._call, function, arguments))
        while len(self._given) > self._waiting:
            self._given.popleft().result()

    def finish(self) -> None:
        """Wait for all calls, and raise what the first that failed raised."""
        while self._given:
            self._given.popleft().result()

    def _call(self, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        if self._failed:
            return
        try:
            function(*arguments)
        except BaseException:
            self._failed = True
            raise
