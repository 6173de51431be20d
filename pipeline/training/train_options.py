"""`train`: how long, how fast, on what batches, on which devices."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.base.options import Options, added
from pipeline.images.random_views import AugmentationOptions
from pipeline.images.view_options import ViewOptions
from pipeline.loading.loaders import LoadingOptions
from pipeline.training.optimisers import OptimizerOptions
from pipeline.training.schedules import ScheduleOptions

Positive = Annotated[float, Field(gt=0)]
LoggerName = Literal["tensorboard", "csv", "dvclive", "wandb", "mlflow"]
Count = Annotated[int, Field(ge=1)]


def _text(value: Any) -> Any:
    """Return an integer as text: YAML reads the name 16 as a number."""
    return str(value) if type(value) is int else value


Rule = Literal["probe", "knn", "objective", "last"]


class ProbeOptions(Options):
    """`train.probe`: the online probes, which run if there are labels.

    The linear probe learns with Adam, at rate `lr`, on training batches. In k-NN, the `neighbours`
    nearest other validation images vote for the class of each one.
    """

    lr: Positive = 1e-3
    neighbours: Count = 20


class ParallelOptions(Options):
    """`train.parallel`: one process per device, on `nodes` machines of `devices` each.

    `strategy` is Lightning's name. With several processes, auto is DistributedDataParallel; the
    longest name is for backbones of which some parts are not used in every step. With `gather`, the
    objective's statistics are those of the joint batch of all processes. A process that has waited
    `timeout_minutes` for the others ends, since one of them, or its machine, is gone.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Count = 1
    nodes: Count = 1
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    gather: bool = True
    sync_batch_norm: bool = False
    timeout_minutes: Positive = added(10.0)


class SavingOptions(Options):
    """`train.saving`: intervals of saving, in addition to the end of each epoch.

    A run is saved `minutes` after the last save, and every `steps` optimiser steps if set.
    """

    minutes: Positive = 10.0
    steps: Count | None = None


class TrainOptions(Options):
    """`train`: one run of the optimiser.

    `batch_size` is per process. With `augment_both`, both views are augmented independently, as in
    VICReg; otherwise the first view is the original image. `views` adds local ones, which training
    shows beside these two, and validation does not. `ema` is the decay, per optimiser step,
    of an average of the encoder's weights, which is validated and kept in their place. `select` is
    the rule for the best checkpoint, always on validation images: `probe` (highest top-1 of the
    linear probe), `knn` (of nearest neighbours), `objective` (lowest), `last` (none: that of the
    last epoch), or `auto` (probe if there are labels, else objective).

    With `validate_on: original`, the validation objective sees the image as it is in place of every
    random view, which only makes sense if no term compares two views. With `recalibrate`, the
    statistics of batch norms are re-estimated on this number of original training images before
    each validation, and kept in the checkpoints. `loggers` get the curves as they are drawn, in
    addition to `epochs.csv`. `backbone_lr` is the share of `lr` at which the backbone learns, for
    one that starts from known weights; projector and heads learn at `lr`. With `stored_views`,
    targets that are stored of views of the training images are learnt on these views; otherwise
    views are random, with targets of the original ones.

    With `supervised_control`, the same student is also trained with labels in place of the
    objective, for as many steps again, and scored as one more control.
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
    views: ViewOptions = added(ViewOptions())
    loading: LoadingOptions = LoadingOptions()
    saving: SavingOptions = SavingOptions()
    probe: ProbeOptions = ProbeOptions()
    select: Literal["auto", Rule] = "auto"
    validate_on: Literal["views", "original"] = added("views")
    recalibrate: Annotated[int, Field(ge=2)] | None = added(None)
    stored_views: bool = added(True)
    backbone_lr: Annotated[float, Field(gt=0, le=1)] = added(1.0)
    supervised_control: bool = added(False)
    loggers: Annotated[tuple[LoggerName, ...], Field(strict=False)] = added(("tensorboard",))

    @model_validator(mode="after")
    def _schedule_fits(self) -> "TrainOptions":
        schedule = self.schedule
        needed = max(schedule.warmup_epochs + schedule.hold_epochs, *schedule.milestones, 0)
        if needed > self.epochs:
            raise ValueError(f"the schedule needs {needed:g} epochs, but epochs is {self.epochs}")
        return self
