"""`train`: how long, how fast, on what batches, on which devices."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.base.options import Options
from pipeline.images.random_views import AugmentationOptions
from pipeline.loading.loaders import LoadingOptions
from pipeline.training.optimisers import OptimizerOptions
from pipeline.training.schedules import ScheduleOptions

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _text(value: Any) -> Any:
    """Return a number as YAML reads it, 16, as the name that was meant."""
    return str(value) if type(value) is int else value


class ProbeOptions(Options):
    """`train.probe`: what is measured beside the encoder where there are labels.

    A linear probe learns by Adam on training batches; `neighbours` vote for each validation
    image among the others.
    """

    lr: Positive = 1e-3
    neighbours: Count = 20


class ParallelOptions(Options):
    """`train.parallel`: processes, one a device; `nodes` machines of `devices` each.

    `strategy` is Lightning's name: auto is DistributedDataParallel where there is more than one
    process, the longer name is for a backbone of which parts do not take part in a step. With
    `gather` every statistic of the objective is that of the batch of all processes.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Count = 1
    nodes: Count = 1
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    gather: bool = True
    sync_batch_norm: bool = False


class SavingOptions(Options):
    """`train.saving`: when a run can be continued from: the end of an epoch, and in between."""

    minutes: Positive = 10.0
    steps: Count | None = None


class TrainOptions(Options):
    """`train`: one run of the optimiser.

    `batch_size` is that of one process. With `augment_both` the first view is augmented too, by
    draws of its own, as VICReg has it, instead of being the image as it is. `ema` is the decay,
    per optimiser step, of an average of the encoder's weights, which is then validated and kept
    instead of them. `select` is the rule for the best checkpoint, always on validation images:
    `probe` (highest top-1 of the linear probe), `objective` (lowest), or `auto`: probe where
    there are labels.
    """

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)] = 256
    accumulate: Count = 1
    lr: Positive
    optimizer: OptimizerOptions = OptimizerOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    clip_norm: Positive | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Annotated[Literal["32", "bf16", "16"], BeforeValidator(_text)] = "32"
    channels_last: bool = False
    compile: bool = False
    parallel: ParallelOptions = ParallelOptions()
    augmentation: AugmentationOptions = AugmentationOptions()
    augment_both: bool = False
    loading: LoadingOptions = LoadingOptions()
    saving: SavingOptions = SavingOptions()
    probe: ProbeOptions = ProbeOptions()
    select: Literal["auto", "probe", "objective"] = "auto"

    @model_validator(mode="after")
    def _schedule_fits(self) -> "TrainOptions":
        schedule = self.schedule
        needed = max(schedule.warmup_epochs + schedule.hold_epochs, *schedule.milestones, 0)
        if needed > self.epochs:
            raise ValueError(f"the schedule needs {needed:g} epochs, but epochs is {self.epochs}")
        return self
