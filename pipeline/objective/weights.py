"""Weights of terms: a number, or a number that changes in the course of training."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, WrapValidator

from pipeline.base.options import Options

Finite = Annotated[float, Field(allow_inf_nan=False)]
_NUMBER: TypeAdapter[float] = TypeAdapter(Finite, config=ConfigDict(strict=True))


class ChangingWeight(Options):
    """`weight: {from: 50, to: 5, schedule: cosine}`: from the first step to the last."""

    model_config = ConfigDict(serialize_by_alias=True)

    start: Annotated[float, Field(allow_inf_nan=False, alias="from")]
    to: Finite
    schedule: Literal["cosine", "linear"] = "cosine"


def as_weight(value: Any) -> float | ChangingWeight:
    """Return a weight as an experiment file has it. Raises ValidationError if it is none."""
    # A union would report one mistake once for each of its members.
    if isinstance(value, ChangingWeight):
        return value
    if isinstance(value, Mapping):
        return ChangingWeight.model_validate(value)
    return _NUMBER.validate_python(value)


Weight = Annotated[float | ChangingWeight, WrapValidator(lambda value, _: as_weight(value))]


def weight_at(weight: float | ChangingWeight, progress: float) -> float:
    """Return a weight at `progress`, 0 at the first step and 1 at the last.

    `linear` is a straight line; `cosine` is half a cosine, flat at both ends.
    """
    if not isinstance(weight, ChangingWeight):
        return weight
    progress = min(1.0, max(0.0, progress))
    if weight.schedule == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return weight.start + (weight.to - weight.start) * progress


def never_counts(weight: float | ChangingWeight) -> bool:
    """Whether a weight is 0 from the first step to the last."""
    if isinstance(weight, ChangingWeight):
        return weight.start == weight.to == 0
    return weight == 0


def weight_text(weight: float | ChangingWeight) -> str:
    """Return a weight for people, such as `50` or `50 to 5`."""
    if isinstance(weight, ChangingWeight):
        return f"{weight.start:g} to {weight.to:g}"
    return f"{weight:g}"
