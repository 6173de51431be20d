"""Weights that change in the course of training."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from pipeline.base.options import Options, problems
from pipeline.objective.objective import Moment, Objective
from pipeline.objective.shared_batch import Activations
from pipeline.objective.terms import ObjectiveOptions, active
from pipeline.objective.weights import (
    ChangingWeight,
    as_weight,
    never_counts,
    weight_at,
    weight_text,
)

TERMS: TypeAdapter[Any] = TypeAdapter(ObjectiveOptions)


class Section(Options):
    """The part of an experiment's schema that is under test."""

    objective: ObjectiveOptions


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_weight_goes_from_its_first_to_its_last_value_without_turning(schedule: str) -> None:
    weight = as_weight({"from": 50, "to": 5, "schedule": schedule})
    values = [weight_at(weight, step / 100) for step in range(101)]
    assert values[0] == 50
    assert values[-1] == pytest.approx(5)
    assert all(late <= early for early, late in pairwise(values))
    assert values[50] == pytest.approx(27.5)
    quarter = 38.75 if schedule == "linear" else 27.5 + 22.5 * math.cos(math.pi / 4)
    assert values[25] == pytest.approx(quarter)
    assert weight_at(weight, -1) == 50
    assert weight_at(weight, 2) == pytest.approx(5)
    assert weight_at(as_weight(3), 0.7) == 3


def test_a_weight_counts_unless_it_is_always_zero() -> None:
    risen, idle = ({"weight": {"from": 0, "to": last}} for last in (1, 0))
    terms = TERMS.validate_python({"invariance": risen, "variance": idle})
    assert list(active(terms)) == ["invariance"]
    assert never_counts(0.0)
    assert not never_counts(-1.0)
    assert weight_text(terms["invariance"].weight) == "0 to 1"
    assert weight_text(0.5) == "0.5"


def test_a_weight_is_written_as_it_is_read() -> None:
    given = {"from": 2.0, "to": 1.0, "schedule": "linear"}
    terms = TERMS.validate_python({"invariance": {"weight": given}})
    dumped = terms["invariance"].model_dump(mode="json")
    assert dumped["weight"] == given
    assert TERMS.validate_python({"invariance": dumped}) == terms
    assert TERMS.validate_python({"invariance": {}})["invariance"].model_dump()["weight"] == 1.0


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        ({"from": 1}, ".to: this key is required."),
        ({"from": 1, "to": "much"}, ".to: "),
        ({"from": 1, "to": 2, "frm": 3}, ".frm: Unknown key 'frm'. Did you mean 'from'?"),
        (
            {"from": 1, "to": 2, "schedule": "cosin"},
            ".schedule: Unknown value 'cosin'. Did you mean 'cosine'?",
        ),
        ("much", ": "),
        (True, ": "),
    ],
)
def test_mistakes_are_reported_once_with_their_path(weight: Any, says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Section.model_validate({"objective": {"invariance": {"weight": weight}}})
    (line,) = problems(caught.value, Section)
    assert line.startswith(f"objective.invariance.weight{says}")


def test_the_objective_uses_the_weight_of_the_step_and_the_last_one_outside_training() -> None:
    weight = ChangingWeight.model_validate({"from": 10, "to": 2, "schedule": "linear"})
    terms = TERMS.validate_python({"invariance": {"weight": weight}, "variance": {"weight": 3}})
    built = Objective(terms, h_width=4, z_width=3, representation_widths={})
    random = torch.Generator().manual_seed(0)
    z = {view: torch.randn(6, 3, generator=random) for view in ("original", "augmented")}
    for progress, current in ((0.0, 10), (0.25, 8), (1.0, 2)):
        value = built(Activations({}, z), {}, moment=Moment(progress=progress))
        expected = current * value.terms["invariance"] + 3 * value.terms["variance"]
        torch.testing.assert_close(value.total, expected)
        assert value.weights == {"invariance": current}
    outside = built.eval()(Activations({}, z), {}, moment=Moment(progress=0.0))
    expected = 2 * outside.terms["invariance"] + 3 * outside.terms["variance"]
    torch.testing.assert_close(outside.total, expected)
    assert outside.weights == {}
