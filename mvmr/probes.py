"""Probes of frozen features: how well classes follow from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mvmr.arrays import ArrayLike, Bar, as_tensor, watched
from mvmr.public_calls import public
from pipeline.base.devices import device_from
from pipeline.base.options import checked_by
from pipeline.evaluation import knn, linear
from pipeline.evaluation.labelled_features import LabelledFeatures
from pipeline.metrics.accuracy import bootstrap_interval

Labelled: TypeAlias = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True, repr=False)
class Probe:
    """The accuracy of a probe on test images, in [0, 1], with its 95 % interval.

    `chosen` are the options that were best on validation images. `predicted` (N,) are the classes
    of the test images.
    """

    accuracy: float
    interval: tuple[float, float]
    validation_accuracy: float
    chosen: Mapping[str, Any]
    predicted: "np.ndarray[Any, Any]" = field(compare=False)

    def __repr__(self) -> str:
        low, high = self.interval
        chosen = ", ".join(f"{name} {value}" for name, value in self.chosen.items())
        return f"{self.accuracy:.3f} ({low:.3f} to {high:.3f}), {chosen}"


@public
def linear_probe(
    train: Labelled,
    validation: Labelled,
    test: Labelled,
    *,
    device: str = "auto",
    progress: Bar = None,
    **options: Any,
) -> Probe:
    """Fit a linear classifier on frozen features to the optimum, and score it on test images.

    It is multinomial logistic regression on standardised features. Each split is a pair of features
    (N, D) and integer labels (N,). The strength of the L2 penalty is chosen on validation images
    among `l2=(...)`. Raises DataError if features are not finite, an image has no label, or a class
    has no training image.

    >>> import numpy as np
    >>> draw = np.random.default_rng(0)
    >>> y = np.arange(300) % 2
    >>> X = draw.normal(size=(300, 4)) + 9 * y[:, None]
    >>> mvmr.linear_probe((X[:200], y[:200]), (X[200:250], y[200:250]), (X[250:], y[250:])).accuracy
    1.0
    """
    chosen = checked_by(linear.LinearOptions, {"kind": "linear", **options}, "linear_probe")
    splits = _splits(train, validation, test)
    with watched(progress) as bar:
        bar.start("linear probe", len(set(chosen.l2)), "fits")
        found = linear.linear_probe(
            *splits, options=chosen, device=device_from(device), progress=bar
        )
    best = found.validation_accuracies[found.l2s.index(found.l2)]
    predicted = found.classifier.classes[found.test_logits.argmax(1)]
    return _probe(predicted, splits[2].labels, best, {"l2": found.l2})


@public
def knn_probe(
    train: Labelled,
    validation: Labelled,
    test: Labelled,
    *,
    device: str = "auto",
    progress: Bar = None,
    **options: Any,
) -> Probe:
    """Classify test images by the votes of their nearest training images, by cosine.

    Each split is a pair of features (N, D) and integer labels (N,). The number of neighbours and
    the temperature of the votes are chosen on validation images among `ks=(...)` and
    `temperatures=(...)`. Raises DataError as `linear_probe` does.

    >>> import numpy as np
    >>> y = np.arange(60) % 3
    >>> X = np.eye(3)[y]
    >>> mvmr.knn_probe((X, y), (X, y), (X, y), ks=(5,)).accuracy
    1.0
    """
    chosen = checked_by(knn.KnnOptions, {"kind": "knn", **options}, "knn_probe")
    splits = _splits(train, validation, test)
    with watched(progress) as bar:
        bar.start("neighbours", len(splits[1]) + len(splits[2]), "images")
        found = knn.knn_probe(*splits, options=chosen, device=device_from(device), progress=bar)
    predicted = found.classes[found.test_scores.argmax(1)]
    best = max(found.validation_accuracies.values())
    return _probe(
        predicted, splits[2].labels, best, {"k": found.k, "temperature": found.temperature}
    )


def _splits(
    train: Labelled, validation: Labelled, test: Labelled
) -> tuple[LabelledFeatures, LabelledFeatures, LabelledFeatures]:
    return _labelled(train, "train"), _labelled(validation, "validation"), _labelled(test, "test")


def _labelled(pair: Labelled, name: str) -> LabelledFeatures:
    features, labels = pair
    rows = as_tensor(features, f"The features of {name}")
    known = as_tensor(labels, f"The labels of {name}")
    wide = torch.promote_types(rows.dtype, torch.float32)
    return LabelledFeatures(rows.detach().cpu().to(wide), known.detach().cpu())


def _probe(
    predicted: Tensor, labels: Tensor, validation: float, chosen: Mapping[str, Any]
) -> Probe:
    interval = bootstrap_interval((predicted == labels.cpu()).double(), seed=0)
    bounds = interval.low, interval.high
    return Probe(interval.mean, bounds, validation, chosen, predicted.numpy())
