"""The learning rate as a pure function of the optimiser step."""

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.base.errors import ConfigError
from pipeline.base.options import Options

Epochs = Annotated[float, Field(ge=0)]


class ScheduleOptions(Options):
    """`train.schedule`: a linear warm-up, then one of three shapes.

    - constant: the base rate;
    - cosine: the base rate for `hold_epochs`, then half a cosine down to `final_lr`;
    - multistep: the base rate, times `gamma` after each of `milestones` (in epochs).
    """

    kind: Literal["constant", "cosine", "multistep"] = "cosine"
    warmup_epochs: Epochs = 0.0
    hold_epochs: Epochs = 0.0
    final_lr: Annotated[float, Field(ge=0)] = 0.0
    milestones: Annotated[tuple[Epochs, ...], Field(strict=False)] = ()
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _possible(self) -> "ScheduleOptions":
        if self.kind != "cosine" and (self.hold_epochs or self.final_lr):
            raise ValueError(f"hold_epochs and final_lr belong to cosine, not to {self.kind}")
        if (self.kind == "multistep") != bool(self.milestones):
            raise ValueError("multistep needs milestones, and no other kind has them")
        if any(late <= early for early, late in pairwise(self.milestones)):
            raise ValueError(f"milestones must increase; found {list(self.milestones)}")
        return self


def learning_rate(
    step: int,
    *,
    total_steps: int,
    steps_per_epoch: int,
    base_lr: float,
    options: ScheduleOptions,
) -> float:
    """Return the rate of optimiser step `step`, counted from 0.

    With W steps of warm-up the rates are base_lr * 1/(W+1), ..., W/(W+1) and then base_lr at step
    W: no step has a rate of 0. A cosine reaches `final_lr` exactly at the last step,
    total_steps - 1, and stays there. Raises ConfigError if warm-up, hold or milestones extend
    beyond the end of the run.
    """
    warmup = round(options.warmup_epochs * steps_per_epoch)
    hold_end = warmup + round(options.hold_epochs * steps_per_epoch)
    milestones = [round(epoch * steps_per_epoch) for epoch in options.milestones]
    if max(hold_end, *milestones, 0) > total_steps:
        raise ConfigError(
            f"The schedule's warm-up, hold or milestones need {max(hold_end, *milestones, 0)} "
            f"steps of {total_steps}. Train for more epochs or shorten them."
        )
    if step < warmup:
        return base_lr * (step + 1) / (warmup + 1)
    if options.kind == "multistep":
        return base_lr * options.gamma ** sum(step >= milestone for milestone in milestones)
    if options.kind == "constant" or step < hold_end:
        return base_lr
    progress = min(1.0, (step - hold_end) / max(1, total_steps - 1 - hold_end))
    return options.final_lr + (base_lr - options.final_lr) * (1 + math.cos(math.pi * progress)) / 2
