"""How to fit a linear classifier on frozen features: to the optimum, or on augmented views."""

from typing import Annotated

from pydantic import Field, model_validator

from pipeline.base.options import Options
from pipeline.evaluation.protocol import ProtocolOptions
from pipeline.images.random_views import AugmentationOptions
from pipeline.loading.loaders import LoadingOptions

Rates = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False, min_length=1)]


class AugmentedFitOptions(Options):
    """`evaluate.<name>.fit`: gradient descent on features of augmented views.

    Every pair of `lrs` and `weight_decays` is tried. The defaults are the published fit: Adam
    at 1e-3 with a cosine to 0 over 100 epochs.
    """

    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=1)] = 256
    lrs: Rates = (1e-3,)
    weight_decays: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...], Field(strict=False, min_length=1)
    ] = (0.0,)
    loading: LoadingOptions = LoadingOptions()


class LinearFitOptions(ProtocolOptions):
    """Options that protocols with a linear classifier share.

    Each of `l2` is tried; `max_iterations` and `tolerance` end a fit to the optimum. If there is an
    `augmentation`, the classifier is fitted by `fit` instead.
    """

    l2: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False, min_length=1)] = (
        1e-1,
        1e-2,
        1e-3,
        1e-4,
    )
    max_iterations: Annotated[int, Field(ge=1)] = 100
    # The fit ends when no component of the gradient is larger than this.
    tolerance: Annotated[float, Field(gt=0)] = 3e-5
    augmentation: AugmentationOptions | None = None
    fit: AugmentedFitOptions = AugmentedFitOptions()

    @model_validator(mode="after")
    def _one_fit(self) -> "LinearFitOptions":
        exact = self.model_fields_set & {"l2", "max_iterations", "tolerance"}
        if self.augmentation is None and "fit" in self.model_fields_set:
            raise ValueError("fit belongs to an augmentation; set one, or leave fit out")
        if self.augmentation is not None and exact:
            raise ValueError(
                f"{', '.join(sorted(exact))} belong to the fit without augmentation; with one, "
                "set fit"
            )
        return self

    @property
    def descends(self) -> bool:
        """Whether the fit uses gradient descent."""
        return self.augmentation is not None
