"""Computing ahead of a consumer, in threads, in order and with a bound."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def mapped_ahead(
    function: Callable[[Given], Made], items: Iterable[Given], *, threads: int, ahead: int
) -> Iterator[Made]:
    """Yield `function(item)` of each item, in order; up to `ahead` more are begun before.

    Items are taken in the consumer's thread. An exception is raised at its item's turn. When the
    consumer stops, those that are not begun are cancelled, and the others awaited.
    """
    pool = ThreadPoolExecutor(threads)
    begun: deque[Future[Made]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
