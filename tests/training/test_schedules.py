"""Learning rates step by step, and optimisers against plain computations."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from pipeline.base.errors import ConfigError
from pipeline.training.optimisers import OptimizerOptions, build_optimizer
from pipeline.training.schedules import ScheduleOptions, learning_rate


def rates(
    epochs: int = 10, steps_per_epoch: int = 4, base: float = 0.5, **options: object
) -> list[float]:
    chosen = ScheduleOptions.model_validate(options)
    total = epochs * steps_per_epoch
    return [
        learning_rate(
            s, total_steps=total, steps_per_epoch=steps_per_epoch, base_lr=base, options=chosen
        )
        for s in range(total)
    ]


def test_warm_up_climbs_evenly_and_the_cosine_ends_at_the_final_rate() -> None:
    found = rates(kind="cosine", warmup_epochs=2.5, final_lr=0.01)
    climb = [late - early for early, late in pairwise(found[:11])]
    assert found[0] > 0
    assert climb == pytest.approx([0.5 / 11] * 10)
    assert found[10] == 0.5 == max(found)
    assert found[-1] == pytest.approx(0.01)
    expected = [0.01 + 0.49 * (1 + math.cos(math.pi * s / 29)) / 2 for s in range(30)]
    assert found[10:] == pytest.approx(expected)


def test_a_cosine_agrees_with_pytorchs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=39, eta_min=0.02)
    expected = []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert rates(kind="cosine", final_lr=0.02) == pytest.approx(expected)


def test_hold_keeps_the_base_rate_and_then_decays() -> None:
    found = rates(kind="cosine", hold_epochs=5)
    assert found[:21] == [0.5] * 21
    assert all(late < early for early, late in pairwise(found[20:]))
    assert found[-1] == pytest.approx(0, abs=1e-12)


def test_multistep_and_constant() -> None:
    stepped = rates(kind="multistep", milestones=[5, 7.5], gamma=0.1, warmup_epochs=1)
    assert stepped[4:20] == [0.5] * 16
    assert stepped[20:30] == pytest.approx([0.05] * 10)
    assert stepped[30:] == pytest.approx([0.005] * 10)
    assert rates(kind="constant") == [0.5] * 40


@given(
    epochs=st.integers(1, 30),
    steps_per_epoch=st.integers(1, 50),
    warmup=st.floats(0, 0.5),
    hold=st.floats(0, 0.5),
    final=st.floats(0, 0.5),
)
def test_cosine_rates_stay_between_their_bounds(
    epochs: int, steps_per_epoch: int, warmup: float, hold: float, final: float
) -> None:
    found = rates(
        epochs,
        steps_per_epoch,
        kind="cosine",
        warmup_epochs=warmup * (epochs - 1),
        hold_epochs=hold * (epochs - 1),
        final_lr=final,
    )
    peak = found.index(max(found))
    assert found[0] > 0
    assert max(found) == pytest.approx(0.5)
    assert all(late >= early for early, late in pairwise(found[: peak + 1]))
    assert all(late <= early + 1e-12 for early, late in pairwise(found[peak:]))
    assert min(found[peak:]) >= final - 1e-12


def test_a_step_beyond_the_end_keeps_the_final_rate() -> None:
    options = ScheduleOptions(kind="cosine", final_lr=0.1)
    last = learning_rate(99, total_steps=40, steps_per_epoch=4, base_lr=0.5, options=options)
    assert last == pytest.approx(0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"warmup_epochs": 11},
        {"warmup_epochs": 6, "hold_epochs": 5},
        {"kind": "multistep", "milestones": [5, 11]},
    ],
)
def test_a_schedule_longer_than_the_run_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="44 steps of 40"):
        rates(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "constant", "final_lr": 0.1}, "belong to cosine"),
        ({"kind": "multistep"}, "needs milestones"),
        ({"kind": "cosine", "milestones": [3]}, "needs milestones"),
        ({"kind": "multistep", "milestones": [3, 3]}, "must increase"),
        ({"warmup_epochs": -1}, "greater than or equal to 0"),
    ],
)
def test_impossible_schedules_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ScheduleOptions.model_validate(options)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lars"])
def test_decay_spares_biases_and_norms(name: str) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    options = OptimizerOptions.model_validate({"name": name, "weight_decay": 0.5})
    optimizer = build_optimizer(model.named_parameters(), options, lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, value in model.named_parameters():
        shrunk = bool((value.abs() < before[key].abs()).any())
        assert shrunk == (value.ndim == 2), key


def test_decay_reaches_biases_and_norms_on_demand() -> None:
    model = network()
    options = OptimizerOptions(name="adamw", weight_decay=0.5, decay_norms_and_biases=True)
    optimizer = build_optimizer(model.named_parameters(), options, lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.get_parameter("1.weight"), torch.full((8,), 0.95))


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"name": "adam", "betas": [0.8, 0.99]}, lambda p: torch.optim.Adam(p, 0.1, (0.8, 0.99))),
        ({"name": "adamw"}, lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0)),
        ({"name": "sgd"}, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        ({"name": "sgd", "momentum": 0.0}, lambda p: torch.optim.SGD(p, 0.1)),
    ],
)
def test_without_decay_the_steps_are_pytorchs(
    options: dict[str, object], reference: object
) -> None:
    ours, theirs = network(), network()
    optimizer = build_optimizer(
        ours.named_parameters(), OptimizerOptions.model_validate(options), lr=0.1
    )
    expected = reference(theirs.parameters())  # type: ignore[operator]
    for seed in range(3):
        step(ours, optimizer, seed)
        step(theirs, expected, seed)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_lars_matches_a_plain_computation(decay: float) -> None:
    ours, plain = network(), network()
    options = OptimizerOptions(name="lars", weight_decay=decay, momentum=0.8)
    optimizer = build_optimizer(ours.named_parameters(), options, lr=2.0)
    velocity = {name: torch.zeros_like(p) for name, p in plain.named_parameters()}
    for seed in range(3):
        step(ours, optimizer, seed)
        plain.zero_grad()
        plain(
            torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))
        ).square().mean().backward()
        with torch.no_grad():
            for name, p in plain.named_parameters():
                assert p.grad is not None
                update = p.grad
                if p.ndim == 2:
                    trust = 0.001 * p.norm() / (p.grad.norm() + decay * p.norm())
                    update = trust * (p.grad + decay * p)
                velocity[name] = 0.8 * velocity[name] + update
                p.sub_(2.0 * velocity[name])
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lars"])
def test_a_resumed_optimiser_continues_the_same_steps(name: str) -> None:
    options = OptimizerOptions.model_validate({"name": name, "weight_decay": 1e-3})
    model = network()
    optimizer = build_optimizer(model.named_parameters(), options, lr=0.1)
    step(model, optimizer, 0)
    resumed = copy.deepcopy(model)
    other = build_optimizer(resumed.named_parameters(), options, lr=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(model, optimizer, 1)
    step(resumed, other, 1)
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_parameters_are_left_out_and_all_frozen_is_an_error() -> None:
    model = network()
    model.get_parameter("0.weight").requires_grad_(False)
    optimizer = build_optimizer(model.named_parameters(), OptimizerOptions(), lr=0.1)
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert sorted(names) == ["0.bias", "1.bias", "1.weight", "3.bias", "3.weight"]
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing to optimise"):
        build_optimizer(model.named_parameters(), OptimizerOptions(), lr=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adam", "momentum": 0.9}, "leave momentum out"),
        ({"name": "sgd", "betas": [0.9, 0.99]}, "leave betas out"),
        ({"name": "lars", "decay_norms_and_biases": True}, "lars spares"),
        ({"name": "rmsprop"}, "adamw"),
        ({"betas": [0.9, 1.0]}, "less than 1"),
    ],
)
def test_impossible_optimisers_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OptimizerOptions.model_validate(options)
