"""Weighted nearest-neighbour classification, which needs no training.

The neighbours by cosine vote for their class with weight exp(cosine / temperature), as in Wu et al.
(arXiv 1805.01978). The number of neighbours and the temperature are chosen on validation images.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.base.arguments import require_one_width
from pipeline.base.errors import DataError
from pipeline.base.progress import Progress
from pipeline.evaluation.labelled_features import LabelledFeatures, class_indices, classes_of
from pipeline.evaluation.protocol import (
    Outcome,
    ProtocolOptions,
    Setting,
    classified,
    probe_splits,
    sizes,
)
from pipeline.evaluation.subjects import Subject
from pipeline.metrics.accuracy import top_k_accuracy
from pipeline.metrics.neighbours import nearest, vote

Temperature = Annotated[float, Field(gt=0)] | Literal["uniform"]


class KnnOptions(ProtocolOptions):
    """`evaluate.<name>` of kind knn: every pair of `ks` and `temperatures` is tried.

    A k above the number of labelled training images is skipped. The temperature "uniform" gives
    each neighbour one vote.
    """

    kind: Literal["knn"] = "knn"
    ks: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)] = (
        10,
        20,
        100,
        200,
    )
    temperatures: Annotated[tuple[Temperature, ...], Field(strict=False, min_length=1)] = (
        0.02,
        0.07,
        0.2,
        "uniform",
    )

    def score(self, subject: Subject, setting: Setting) -> Outcome:
        """Score one subject by `knn_probe`."""
        splits = probe_splits(subject, setting.images)
        queries = len(splits[1]) + len(splits[2])
        setting.progress.start(f"neighbours of {subject.name}", queries, "images")
        result = knn_probe(*splits, options=self, device=setting.device, progress=setting.progress)
        tried = [
            {"k": k, "temperature": temperature, "validation_top1": 100 * accuracy}
            for (k, temperature), accuracy in result.validation_accuracies.items()
        ]
        return classified(
            result.test_scores,
            result.classes,
            setting,
            images=sizes(*splits),
            values={
                "validation_top1": 100 * max(result.validation_accuracies.values()),
                "k": result.k,
                "temperature": result.temperature,
            },
            details={"tried": tried},
        )


@dataclass(frozen=True)
class KnnResult:
    """A nearest-neighbour probe's outcome, on the CPU.

    `validation_accuracies` holds every (k, temperature) that was tried; if some are equal, the
    first is chosen. `test_scores` (N, K) are shares of the votes, with columns in the order of
    `classes`.
    """

    k: int
    temperature: Temperature
    validation_accuracies: dict[tuple[int, Temperature], float]
    classes: Tensor
    test_scores: Tensor


def knn_probe(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    test: LabelledFeatures,
    *,
    options: KnnOptions,
    device: torch.device,
    progress: Progress | None = None,
) -> KnnResult:
    """Classify by the neighbours in `train`: choose on `validation`, score `test`.

    A k above the number of training images is skipped. Raises DataError if every k is skipped, if
    there are fewer than two classes, if a class has no training image, or if widths differ.
    """
    require_one_width(train.features, validation.features, test.features)
    ks = [k for k in options.ks if k <= len(train)]
    if not ks:
        raise DataError(
            f"k = {min(options.ks)} neighbours need as many training images; found {len(train)}. "
            "Make ks smaller."
        )
    classes = classes_of(train.labels, validation.labels, test.labels)
    targets = class_indices(validation.labels, classes)
    bank = class_indices(train.labels, classes)
    search = partial(nearest, bank=train.features, device=device, progress=progress)
    found = search(validation.features, k=max(ks))
    accuracies = {
        (k, temperature): top_k_accuracy(
            vote(found, bank, classes=len(classes), k=k, temperature=temperature), targets
        )
        for k in ks
        for temperature in options.temperatures
    }
    k, temperature = max(accuracies, key=lambda pair: accuracies[pair])
    found = search(test.features, k=k)
    return KnnResult(
        k=k,
        temperature=temperature,
        validation_accuracies=accuracies,
        classes=classes,
        test_scores=vote(found, bank, classes=len(classes), k=k, temperature=temperature),
    )
