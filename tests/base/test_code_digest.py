"""A digest of code changes with its text and with the values that it uses, and with no more."""

import functools
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.base.code_digest import source_digest

ROOT = Path(__file__).parents[2]
POWER: Any = 1.0


def captured(power: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: x**power


def two(x: Tensor, power: float) -> Tensor:
    return x**power


def of_module(x: Tensor) -> Any:
    return [y**POWER for y in x]


@dataclass
class Options:
    """What a sweep changes."""

    power: float


class Loss:
    """An object that is called."""

    def __init__(self, power: float) -> None:
        self.power = power

    def __call__(self, x: Tensor) -> Tensor:
        """Return a power."""
        return x**self.power

    def method(self, x: Tensor) -> Tensor:
        """Return a power."""
        return self(x)


class Layer(nn.Module):
    """A layer with attributes that its representation does not show."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.activation, self.tags = torch.relu, {"a", "b", "c"}
        self.inner = nn.Linear(2, 2, bias=False)
        nn.init.ones_(self.inner.weight)


def filled(value: float) -> nn.Module:
    layer = nn.Linear(2, 2, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


@pytest.mark.parametrize(
    "made",
    [
        captured,
        lambda power: captured(torch.tensor([power])),
        lambda power: captured(np.array([power])),
        lambda power: captured({"a": [power]}),
        lambda power: captured({power, "b"}),
        lambda power: captured(Path(str(power))),
        lambda power: captured(Options(power)),
        lambda power: captured(Namespace(power=power)),
        lambda power: captured(np.array([power, None])),
        lambda power: captured(captured(power)),
        lambda power: captured(filled(power)),
        lambda power: functools.partial(two, power=power),
        Loss,
        lambda power: Loss(power).method,
        Layer,
        lambda power: nn.Sequential(nn.ReLU(), Layer(power)),
    ],
)
def test_a_value_that_code_uses_is_part_of_its_digest(made: Callable[[float], Any]) -> None:
    assert source_digest(made(1.0)) == source_digest(made(1.0))
    assert source_digest(made(1.0)) != source_digest(made(2.0))


def test_a_constant_of_the_module_is_part_of_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = source_digest(of_module)
    assert source_digest(of_module) == before
    monkeypatch.setattr(f"{__name__}.POWER", 2.0)
    assert source_digest(of_module) != before


CALLS, SEEN = 0, list[float]()


def counting(x: float) -> float:
    global CALLS
    CALLS += 1
    SEEN.append(x)
    return x


def test_what_code_changes_itself_is_no_part_of_its_digest() -> None:
    before = source_digest(counting)
    counting(1.0)
    assert (CALLS, SEEN) == (1, [1.0])
    assert source_digest(counting) == before


def test_a_function_that_uses_nothing_else_has_the_digest_of_its_text() -> None:
    assert source_digest(two) == source_digest(two)
    assert source_digest(two) != source_digest(captured)


def test_values_that_refer_to_themselves_end() -> None:
    loss: Any = Loss(1.0)
    loss.own = loss
    endless: list[Any] = []
    endless.append(endless)
    loss.more = endless
    assert source_digest(loss) == source_digest(loss)


def test_training_mode_and_gradients_are_no_part_of_a_network() -> None:
    layer = Layer(1.0)
    before = source_digest(layer)
    layer.eval().inner(torch.ones(1, 2)).sum().backward()
    assert source_digest(layer) == before


def test_the_digest_is_the_same_in_every_process() -> None:
    """Functions of libraries show their address, and sets have another order in each process."""
    code = (
        "from test_code_digest import *\n"
        "print(source_digest(Layer(1.0)), source_digest(captured(torch.tanh)))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(3)
    }
    assert told == {f"{source_digest(Layer(1.0))} {source_digest(captured(torch.tanh))}\n"}
    assert source_digest(captured(torch.tanh)) != source_digest(captured(torch.sigmoid))
