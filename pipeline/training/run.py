"""What determines a training run. It is described without loading what trains it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.errors import ConfigError, DataError
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import SplitData
from pipeline.loading.batch_pixels import RandomViews
from pipeline.models.student import StudentOptions
from pipeline.objective.terms import AnyTerm
from pipeline.representations.representation import Representation, identity_of
from pipeline.training.determinants import determinants
from pipeline.training.step_views import (
    random_views,
    stored_views_of,
    view_complaints,
    view_plan,
)
from pipeline.training.train_options import TrainOptions


@dataclass(frozen=True)
class Run:
    """Everything that determines a training run.

    `live` are the representations that the objective names and the store does not hold. `about` is
    written to the checkpoints unchanged. `weights` is a checkpoint to start from.
    """

    train: SplitData
    validation: SplitData
    student: StudentOptions
    objective: Mapping[str, AnyTerm]
    live: Mapping[str, Representation]
    options: TrainOptions
    seed: int
    about: Mapping[str, Any]
    weights: Path | None = None

    def __post_init__(self) -> None:
        """Raise DataError if training and validation images do not belong together.

        Raises ConfigError if the objective and the views do not.
        """
        for what in ("dataset", "classes", "multi_label"):
            ours, theirs = (getattr(d.manifest, what) for d in (self.train, self.validation))
            if ours != theirs:
                raise DataError(
                    f"Training and validation images need the same {what}; found {ours!r} and "
                    f"{theirs!r}: pack both from one data set."
                )
        if self.train.image != self.validation.image:
            raise DataError(
                f"Training and validation images need the same form; found {self.train.image!r} "
                f"and {self.validation.image!r}."
            )
        for complaint in view_complaints(self.objective, self.options, self.image):
            raise ConfigError(complaint)

    @property
    def image(self) -> ImageOptions:
        """How the student sees an image."""
        return self.train.image

    def random_views(self, stream: int) -> RandomViews:
        """Return the random views that training or validation draws."""
        return random_views(
            view_plan(self.objective, self.options, stream),
            self.options,
            stream=stream,
            stored=stored_views_of(self.train.features, self.options),
            live=bool(self.live),
        )

    def content(self) -> dict[str, Any]:
        """Return everything that determines the run, as a JSON value."""
        both = {"train": self.train, "validation": self.validation}
        return {
            **determinants(
                seed=self.seed,
                student=self.student,
                objective=self.objective,
                train=self.options,
                image=self.image,
                shards={name: data.digest for name, data in both.items()},
                targets=self.train.features,
                weights=self.weights,
            ),
            "live": {name: identity_of(network) for name, network in self.live.items()},
        }
