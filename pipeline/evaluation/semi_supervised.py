"""Semi-supervised."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config import Options
from pipeline.loading.training import LoadingOptions
from pipeline.schedules import OptimizerOptions, ScheduleOptions
from pipeline.views import AugmentationOptions

Rate = Annotated[float, Field(gt=0)]


class SemiSupervisedOptions(Options):
    """`evaluate.<name>` of kind semi_supervised: fine-tuning on few labels.

    The labels are either a `share` of each class's training images (at least one), drawn by the
    experiment's seed, or the images that the text file `files` lists, one name a line.
    """

    kind: Literal["semi_supervised"] = "semi_supervised"
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    files: Annotated[Path, Field(strict=False)] | None = None
    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=2)] = 256
    encoder_lr: Rate = 1e-4
    head_lr: Rate = 1e-3
    optimizer: OptimizerOptions = OptimizerOptions(weight_decay=1e-6)
    schedule: ScheduleOptions = ScheduleOptions()
    augmentation: AugmentationOptions = AugmentationOptions()
    loading: LoadingOptions = LoadingOptions()

    @model_validator(mode="after")
    def _one_choice(self) -> "SemiSupervisedOptions":
        if (self.share is None) == (self.files is None):
            raise ValueError("set either share, such as 0.01, or files, a list of image names")
        return self
