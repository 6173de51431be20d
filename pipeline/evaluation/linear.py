"""Linear probe: how well a linear classifier does on frozen features.

The classifier is multinomial logistic regression with an L2 penalty on the weights, fitted to the
optimum. So the result does not depend on a learning rate or a number of epochs. The penalty is
chosen on validation images; test images are only scored. Options select the published fit instead,
by gradient descent on augmented views, and average test logits over ten crops.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.base.arguments import require_one_width
from pipeline.base.errors import ArgumentError
from pipeline.base.progress import Progress
from pipeline.evaluation.augmented_fit import augmented_fit, one_class
from pipeline.evaluation.feature_batches import Rows
from pipeline.evaluation.fit_options import LinearFitOptions
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.labelled_features import LabelledFeatures, class_indices, classes_of
from pipeline.evaluation.logistic import LinearClassifier, fit_logistic
from pipeline.evaluation.protocol import Outcome, Setting, classified, probe_splits, sizes
from pipeline.evaluation.subjects import Embed, Subject
from pipeline.metrics.accuracy import top_k_accuracy


class LinearOptions(LinearFitOptions):
    """`evaluate.<name>` of kind linear.

    Each of `l2` is tried. It is the factor lambda of ||W||^2 / 2, which is added to the mean cross
    entropy over images; scikit-learn's C is 1 / (lambda * images). If there is an `augmentation`,
    the classifier is fitted by `fit` instead of to the optimum. `ten_crop` averages the test
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
    ten_crop: bool = False

    def score(self, subject: Subject, setting: Setting) -> Outcome:
        """Score one subject by `linear_probe` or the augmented fit, on ten crops if wanted."""
        splits = probe_splits(subject, setting.images)
        if self.augmentation is not None:
            train, validation = (Rows(split.features, split.labels) for split in splits[:2])
            fitted = augmented_fit(
                train,
                validation,
                one_class(classes_of(*(split.labels for split in splits))),
                subject,
                setting,
                augmentation=self.augmentation,
                options=self.fit,
            )
            classifier, values, tried = fitted.classifier, fitted.chosen, fitted.tried
        else:
            setting.progress.start(f"linear probe of {subject.name}", len(set(self.l2)), "fits")
            result = linear_probe(
                *splits,
                options=self.model_copy(update={"ten_crop": False}),
                device=setting.device,
                progress=setting.progress,
            )
            chosen = result.l2s.index(result.l2)
            classifier = result.classifier
            values = {
                "validation_top1": 100 * result.validation_accuracies[chosen],
                "l2": result.l2,
                "converged": result.converged[chosen],
            }
            tried = [
                {"l2": l2, "validation_top1": 100 * accuracy, "converged": converged}
                for l2, accuracy, converged in zip(
                    result.l2s, result.validation_accuracies, result.converged, strict=True
                )
            ]
        crops = 1
        if self.ten_crop and subject.embed is not None:  # a stored feature has no other view
            crops, logits = 10, ten_crop_logits(classifier, subject.embed, setting.images)
        else:
            logits = classifier.logits(splits[2].features)
        return classified(
            logits.double().softmax(dim=1),
            classifier.classes,
            setting,
            images=sizes(*splits),
            values=values,
            details={"tried": tried, "crops": crops},
        )


@dataclass(frozen=True)
class LinearResult:
    """A linear probe's outcome, on the CPU.

    `validation_accuracies` and `converged` are in the order of `l2s`; of equal accuracies, the
    stronger penalty is chosen. Columns of `test_logits` (N, K) follow `classifier.classes`.
    """

    classifier: LinearClassifier
    l2: float
    l2s: tuple[float, ...]
    validation_accuracies: tuple[float, ...]
    converged: tuple[bool, ...]
    test_logits: Tensor


def linear_probe(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    test: LabelledFeatures,
    *,
    options: LinearOptions,
    device: torch.device,
    progress: Progress | None = None,
) -> LinearResult:
    """Fit on `train` for each penalty, choose by accuracy on `validation`, score `test`.

    Raises DataError if there are fewer than two classes, a class without a training image, or
    features of several widths; ArgumentError for options that need images.
    """
    if options.augmentation is not None or options.ten_crop:
        raise ArgumentError(
            "linear_probe sees features alone: augmentation and ten_crop need images, which a run "
            "has, so set them in its section evaluate."
        )
    require_one_width(train.features, validation.features, test.features)
    classes = classes_of(train.labels, validation.labels, test.labels)
    targets = class_indices(validation.labels, classes)
    strengths = tuple(sorted(set(options.l2), reverse=True))
    fits = fit_logistic(
        train,
        l2s=strengths,
        max_iterations=options.max_iterations,
        tolerance=options.tolerance,
        device=device,
        progress=progress,
    )
    accuracies = tuple(
        top_k_accuracy(classifier.logits(validation.features).cpu(), targets)
        for classifier, _ in fits
    )
    best = accuracies.index(max(accuracies))
    chosen = fits[best][0]
    classifier = replace(chosen.to(torch.device("cpu")), classes=classes)
    return LinearResult(
        classifier=classifier,
        l2=strengths[best],
        l2s=strengths,
        validation_accuracies=accuracies,
        converged=tuple(converged for _, converged in fits),
        test_logits=chosen.logits(test.features).cpu(),
    )


def ten_crop_logits(classifier: LinearClassifier, embed: Embed, images: Images) -> Tensor:
    """Return logits (N, K) of the labelled test images, averaged over ten crops.

    The crops are the corners, the centre and their mirror images, at the student's size. They are
    cut from the centre square at `dataset.image.resize`. Without a `resize` the five positions
    coincide, and only mirroring makes a difference.
    """
    side = images.image.resize or images.image.size
    square = images.image.model_copy(update={"size": side, "resize": side})
    parts = []
    for batch in images.batches("test", square):
        crops = ten_crop(batch, images.image.size)
        parts.append(torch.stack([classifier.logits(embed(c).cpu()) for c in crops]).mean(dim=0))
    return torch.cat(parts)[images.known("test")]


def ten_crop(images: Tensor, size: int) -> list[Tensor]:
    """Cut corners and centre (B, C, size, size) from square images, and mirror each crop."""
    side = images.shape[-1]
    if images.shape[-2] != side or not 1 <= size <= side:
        raise ArgumentError(
            f"Crops of {size} pixels are cut from square images that are as large; found "
            f"{tuple(images.shape)}."
        )
    far, middle = side - size, (side - size) // 2
    corners = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    crops = [images[..., top : top + size, left : left + size] for top, left in corners]
    return [*crops, *(crop.flip(-1) for crop in crops)]
