"""Threads beside the one that starts them: a pool for each number, one core for each thread."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, current_thread
from typing import Any

import pytest
import torch

from pipeline.base.precision import full_precision
from pipeline.base.threads import mapped_ahead, thread_pool

CPU = torch.device("cpu")


def test_each_thread_of_a_pool_computes_on_one_core_and_others_are_left_alone() -> None:
    before, pool = torch.get_num_threads(), thread_pool(2)
    torch.set_num_threads(3)
    try:
        together = Barrier(2)

        def look() -> tuple[str, int]:
            together.wait()
            return current_thread().name, torch.get_num_threads()

        found = [future.result() for future in [pool.submit(look) for _ in range(2)]]
        assert len({name for name, _ in found}) == 2
        assert {threads for _, threads in found} == {1}
        assert torch.get_num_threads() == 3
        assert thread_pool(2) is pool
    finally:
        torch.set_num_threads(before)


def test_threads_that_leave_in_any_order_restore_the_precision_once() -> None:
    backends: Any = torch.backends
    setting = backends.mkldnn.matmul
    before, turns = setting.fp32_precision, [Barrier(2) for _ in range(3)]
    setting.fp32_precision = "bf16"
    try:

        def first() -> None:
            with full_precision(CPU):
                turns[0].wait()  # the other one enters
                turns[1].wait()
            turns[2].wait()

        def second() -> Any:
            turns[0].wait()
            with full_precision(CPU):
                turns[1].wait()
                turns[2].wait()  # the first one has left
                return setting.fp32_precision

        with ThreadPoolExecutor(2) as pool:
            left, seen = pool.submit(first), pool.submit(second)
            left.result(30)
            assert seen.result(30) == "ieee"
        assert setting.fp32_precision == "bf16"
    finally:
        setting.fp32_precision = before


def test_work_ahead_keeps_the_order_and_the_bound() -> None:
    begun: list[int] = []
    seen: list[int] = []

    def given() -> Iterator[int]:
        for number in range(40):
            begun.append(number)
            yield number

    def slow(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    for square in mapped_ahead(slow, given(), threads=3, ahead=5):
        seen.append(square)
        assert len(begun) - len(seen) <= 6
    assert seen == [number * number for number in range(40)]


def test_an_error_ahead_comes_at_its_turn_and_a_consumer_may_stop() -> None:
    def refuse(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    ahead = mapped_ahead(refuse, range(10), threads=2, ahead=8)
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(ahead)
    stopped = mapped_ahead(refuse, range(3), threads=2, ahead=2)
    assert next(stopped) == 0
    stopped.close()  # type: ignore[attr-defined]
    assert [*mapped_ahead(refuse, range(3), threads=2, ahead=2)] == [0, 1, 2]
