"""A worker waits for a place that is out of reach, for a while, and for nothing else."""

import pytest

from pipeline.base.errors import DataError, StoreError
from pipeline.base.locations import is_out_of_reach
from pipeline.features.extraction import patience
from pipeline.features.extraction.patience import ENDED, patient

botocore = pytest.importorskip("botocore.exceptions")
UNREACHABLE = (
    botocore.EndpointConnectionError(endpoint_url="http://x"),
    botocore.ConnectTimeoutError(endpoint_url="http://x"),
    ConnectionResetError("reset"),
    OSError(113, "No route to host"),
    TimeoutError(),
)
OTHERS = (DataError("x"), ValueError("x"), OSError(28, "full"), botocore.NoCredentialsError())


class Failing:
    """A function that fails some times, and counts its calls."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times, self.calls = error, times, 0

    def __call__(self, number: int) -> int:
        """Return twice the number, at last."""
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return 2 * number


def called(function: Failing) -> int:
    def task(number: int) -> int:
        return function(number)

    return patient(task)(21)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.01)


@pytest.mark.parametrize("error", UNREACHABLE, ids=lambda error: type(error).__name__)
def test_a_task_is_done_when_its_place_can_be_reached_again(error: Exception) -> None:
    function = Failing(error, 3)
    assert called(function) == 42
    assert function.calls == 4


def test_the_cause_of_an_error_counts() -> None:
    outer = StoreError("cannot be read")
    outer.__cause__ = UNREACHABLE[0]
    assert is_out_of_reach(outer)


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: type(error).__name__)
def test_any_other_error_is_raised_at_once(error: Exception) -> None:
    function = Failing(error, 3)
    with pytest.raises(type(error)):
        called(function)
    assert function.calls == 1


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.1)
    function = Failing(UNREACHABLE[0], 10_000)
    with pytest.raises(botocore.EndpointConnectionError):
        called(function)
    assert 2 <= function.calls < 100


def test_tasks_that_are_to_end_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 60.0)
    function = Failing(UNREACHABLE[0], 10_000)
    ENDED.set()
    try:
        with pytest.raises(botocore.EndpointConnectionError):
            called(function)
    finally:
        ENDED.clear()
