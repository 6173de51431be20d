"""Linear probe: how well a linear classifier does on frozen features.

Multinomial logistic regression with an L2 penalty on the weights, to the optimum: nothing of
the result depends on a learning rate or a number of epochs. The penalty is chosen on
validation images; test images are only scored.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.config import Options
from pipeline.evaluation.features import LabelledFeatures, class_indices, classes_of
from pipeline.evaluation.logistic import LinearClassifier, fit_logistic
from pipeline.evaluation.metrics import top_k_accuracy
from pipeline.loading.training import LoadingOptions
from pipeline.views import AugmentationOptions

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


class LinearOptions(Options):
    """`evaluate.<name>` of kind linear.

    Each of `l2` is tried; one is a factor lambda on ||W||^2 / 2, added to the mean cross
    entropy over images. scikit-learn's C is 1 / (lambda * images). With an `augmentation` the
    classifier is not fitted to the optimum but as `fit` says. `ten_crop` averages the test
    images' logits over ten crops.
    """

    kind: Literal["linear"] = "linear"
    l2: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False, min_length=1)] = (
        1e-1,
        1e-2,
        1e-3,
        1e-4,
        1e-5,
    )
    max_iterations: Annotated[int, Field(ge=1)] = 100
    # The fit ends when no component of the gradient is larger.
    tolerance: Annotated[float, Field(gt=0)] = 3e-5
    augmentation: AugmentationOptions | None = None
    fit: AugmentedFitOptions = AugmentedFitOptions()
    ten_crop: bool = False


@dataclass(frozen=True)
class LinearResult:
    """A linear probe's outcome, on the CPU.

    `validation_accuracies` and `converged` belong to the strengths in order of `l2s`; of
    equal accuracies the stronger penalty is chosen. Columns of `test_logits` (N, K) follow
    `classifier.classes`.
    """

    classifier: LinearClassifier
    l2: float
    l2s: tuple[float, ...]
    validation_accuracies: tuple[float, ...]
    converged: tuple[bool, ...]
    test_logits: Tensor
    test_predictions: Tensor


def linear_probe(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    test: LabelledFeatures,
    *,
    options: LinearOptions,
    device: torch.device,
) -> LinearResult:
    """Fit on `train` for each penalty, choose by accuracy on `validation`, score `test`.

    Raises DataError if there are fewer than two classes, or a class without a training image.
    """
    classes = classes_of(train, validation, test)
    targets = class_indices(validation.labels, classes)
    strengths = tuple(sorted(set(options.l2), reverse=True))
    fits = fit_logistic(
        train,
        l2s=strengths,
        max_iterations=options.max_iterations,
        tolerance=options.tolerance,
        device=device,
    )
    accuracies = tuple(
        top_k_accuracy(classifier.logits(validation.features).cpu(), targets)
        for classifier, _ in fits
    )
    best = accuracies.index(max(accuracies))
    chosen = fits[best][0]
    classifier = LinearClassifier(chosen.weight.cpu(), chosen.bias.cpu(), classes)
    logits = chosen.logits(test.features).cpu()
    return LinearResult(
        classifier=classifier,
        l2=strengths[best],
        l2s=strengths,
        validation_accuracies=accuracies,
        converged=tuple(converged for _, converged in fits),
        test_logits=logits,
        test_predictions=classes[logits.argmax(dim=1)],
    )
