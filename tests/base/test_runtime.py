"""Locks have one holder at a time and leave no file; errors of writing name the target."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.base.atomic import atomic_path
from pipeline.base.errors import TrainingError
from pipeline.base.locks import exclusive


class BusyError(TrainingError):
    """Somebody else holds the lock."""


def test_a_lock_is_held_by_one_at_a_time_and_leaves_no_file(tmp_path: Path) -> None:
    """Holders remove the file while others open it, so a process may lock a removed file."""
    path = tmp_path / "run.lock"
    inside: list[int] = []
    most: list[int] = []

    def come_and_go(number: int) -> int:
        entered = 0
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            try:
                with exclusive(path, BusyError("busy")):
                    inside.append(number)
                    most.append(len(inside))
                    time.sleep(0.0001)
                    inside.remove(number)
                    entered += 1
            except BusyError:
                continue
        return entered

    with ThreadPoolExecutor(4) as pool:
        entered = sum(pool.map(come_and_go, range(4)))
    assert entered == len(most) > 10
    assert max(most) == 1
    assert not path.exists()


def test_a_lock_that_was_left_behind_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    path.touch()  # as a killed process leaves it
    with exclusive(path, BusyError("busy")):
        assert path.exists()
        with pytest.raises(BusyError), exclusive(path, BusyError("busy")):
            pass
        assert path.exists()
    assert not path.exists()


def test_what_cannot_be_written_is_named_and_not_its_temporary_file() -> None:
    with (
        pytest.raises(OSError, match=r"/proc/mine\.npz") as caught,
        atomic_path(Path("/proc/mine.npz")),
    ):
        pass
    assert caught.value.filename == "/proc/mine.npz"
