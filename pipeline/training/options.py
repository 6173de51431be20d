"""`train`: how long, how fast, on what batches."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config import Options
from pipeline.loading.training import LoadingOptions
from pipeline.schedules import OptimizerOptions, ScheduleOptions
from pipeline.views import AugmentationOptions

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class ProbeOptions(Options):
    """`train.probe`: the linear probe that learns beside the encoder, by Adam."""

    lr: Positive = 1e-3


class TrainOptions(Options):
    """`train`: one run of the optimiser.

    `select` is the rule for the best checkpoint, always on validation images: `probe` (highest
    top-1 of the online probe), `objective` (lowest), or `auto`: probe where there are labels.
    """

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)] = 256
    accumulate: Count = 1
    lr: Positive
    optimizer: OptimizerOptions = OptimizerOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    clip_norm: Positive | None = None
    precision: Literal["32", "bf16", "16"] = "32"
    channels_last: bool = False
    augmentation: AugmentationOptions = AugmentationOptions()
    loading: LoadingOptions = LoadingOptions()
    probe: ProbeOptions = ProbeOptions()
    select: Literal["auto", "probe", "objective"] = "auto"

    @model_validator(mode="after")
    def _schedule_fits(self) -> "TrainOptions":
        schedule = self.schedule
        needed = max(schedule.warmup_epochs + schedule.hold_epochs, *schedule.milestones, 0)
        if needed > self.epochs:
            raise ValueError(f"the schedule needs {needed:g} epochs, but epochs is {self.epochs}")
        return self
