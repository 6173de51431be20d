"""Finding a learning rate and a batch size by trying, within the free memory."""

from pathlib import Path

import pytest
import torch
from torch import nn
from training_runs import make_data, make_run

from pipeline.base.errors import ConfigError, TrainingError
from pipeline.base.progress import Silent
from pipeline.training.fit import tune
from pipeline.training.trial import Wanted
from pipeline.training.tuning import largest_batch, taken_by


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    make_data(root)
    return root


def test_found_values_are_the_only_change(data: Path) -> None:
    run = make_run(data, epochs=1, schedule={"kind": "constant"})
    options = tune(run, Wanted(lr=True, batch_size=True), progress=Silent())
    assert options.batch_size == 128  # the largest power of two in 250 images
    assert 1e-7 <= options.lr <= 1
    assert options.lr != run.options.lr
    unchanged = {"lr": run.options.lr, "batch_size": run.options.batch_size}
    assert options.model_copy(update=unchanged) == run.options


def test_several_processes_are_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match="on one device"):
        tune(make_run(data, parallel={"devices": 2}), Wanted(lr=True), progress=Silent())


def test_what_a_step_takes_is_the_most_that_lives_at_one_time() -> None:
    layer = nn.Linear(10, 10, bias=False)
    x = torch.randn(32, 10)
    one = 4 * x.numel()

    def learning() -> torch.Tensor:
        y: torch.Tensor = layer(x).sigmoid().sigmoid()  # both are kept for the backward pass
        return (y * y).sum()

    def frozen() -> torch.Tensor:
        with torch.no_grad():
            y: torch.Tensor = layer(x).sigmoid().sigmoid()
        return y[:0].sum()

    few = 100  # bytes of sums
    assert 3 * one <= taken_by(learning) <= 3 * one + few  # with y * y, before it is summed
    assert 2 * one <= taken_by(frozen) <= 2 * one + few


@pytest.mark.parametrize(("free", "expected"), [(10_000, 64), (3_000, 16), (10**9, 1024)])
def test_the_largest_batch_is_bounded_by_memory_and_samples(free: int, expected: int) -> None:
    def kept(size: int) -> int:
        return 10 * size + size**2 // 2

    sizes = {size: kept(size) for size in (16, 32)}
    found = largest_batch(sizes, fixed_bytes=1000, free_bytes=free, samples=1500)
    assert found == expected
    assert 1000 + kept(found) <= free / 2


def test_no_batch_at_all_fits() -> None:
    with pytest.raises(TrainingError, match="A batch of 16 does not fit"):
        largest_batch({16: 100, 32: 200}, fixed_bytes=0, free_bytes=150, samples=1000)
