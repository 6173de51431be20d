"""Weighted nearest-neighbour classification, which needs no training.

The neighbours by cosine vote for their class with weight exp(cosine / temperature), as in Wu et al.
(arXiv 1805.01978). The number of neighbours, the temperature and the geometry are chosen on
validation images.
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
from pipeline.evaluation.geometry import AS_THEY_ARE, Whitenings, in_geometry
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
    """`evaluate.<name>` of kind knn: every `whiten`, each of `ks` and of `temperatures` is tried.

    A k above the number of labelled training images is skipped. The temperature "uniform" gives
    each neighbour one vote. `whiten` are geometries, see `geometry.py`.
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
    whiten: Whitenings = AS_THEY_ARE

    def score(self, subject: Subject, setting: Setting) -> Outcome:
        """Score one subject by `knn_probe`."""
        splits = probe_splits(subject, setting.images)
        queries = len(self.whiten) * len(splits[1]) + len(splits[2])
        setting.progress.start(f"neighbours of {subject.name}", queries, "images")
        result = knn_probe(*splits, options=self, device=setting.device, progress=setting.progress)
        tried = [
            {"whiten": how, "k": k, "temperature": t, "validation_top1": 100 * accuracy}
            for (how, k, t), accuracy in result.tried.items()
        ]
        return classified(
            result.test_scores,
            result.classes,
            setting,
            images=sizes(*splits),
            values={
                "validation_top1": 100 * max(result.tried.values()),
                "k": result.k,
                "temperature": result.temperature,
                **({"whiten": result.whiten} if len(self.whiten) > 1 else {}),
            },
            details={"tried": tried},
        )


@dataclass(frozen=True)
class KnnResult:
    """A nearest-neighbour probe's outcome, on the CPU.

    `tried` holds the validation accuracy of every (geometry, k, temperature); if some are equal,
    the first is chosen. `test_scores` (N, K) are shares of the votes, with columns in the order of
    `classes`.
    """

    whiten: float | None
    k: int
    temperature: Temperature
    tried: dict[tuple[float | None, int, Temperature], float]
    classes: Tensor
    test_scores: Tensor

    @property
    def validation_accuracies(self) -> dict[tuple[int, Temperature], float]:
        """The validation accuracy of every (k, temperature) in the chosen geometry."""
        return {(k, t): found for (how, k, t), found in self.tried.items() if how == self.whiten}


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
    search = partial(nearest, device=device, progress=progress)
    tried: dict[tuple[float | None, int, Temperature], float] = {}
    for how in options.whiten:
        rows, queries = in_geometry(train.features, validation.features, exponent=how)
        found = search(queries, rows, k=max(ks))
        tried |= {
            (how, k, temperature): top_k_accuracy(
                vote(found, bank, classes=len(classes), k=k, temperature=temperature), targets
            )
            for k in ks
            for temperature in options.temperatures
        }
    how, k, temperature = max(tried, key=lambda choice: tried[choice])
    rows, queries = in_geometry(train.features, test.features, exponent=how)
    found = search(queries, rows, k=k)
    return KnnResult(
        whiten=how,
        k=k,
        temperature=temperature,
        tried=tried,
        classes=classes,
        test_scores=vote(found, bank, classes=len(classes), k=k, temperature=temperature),
    )
