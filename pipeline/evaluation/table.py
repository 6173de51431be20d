"""Every protocol, by kind: how it scores one subject, as values for a metrics file.

To add one: write its file, and add it to the union and to `score`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from pipeline.datasets.base import Split
from pipeline.dependence import distance_correlation
from pipeline.errors import DataError
from pipeline.evaluation.features import LabelledFeatures
from pipeline.evaluation.knn import KnnOptions, knn_probe
from pipeline.evaluation.linear import LinearOptions, linear_probe
from pipeline.evaluation.metrics import bootstrap_interval, top_k_accuracy
from pipeline.evaluation.online import OnlineOptions
from pipeline.evaluation.retrieval import RetrievalOptions, neighbour_agreement, retrieval
from pipeline.evaluation.semi_supervised import SemiSupervisedOptions
from pipeline.evaluation.subjects import Images, Subject
from pipeline.evaluation.voc07 import Voc07Options
from pipeline.evaluation.zero_shot import ZeroShotOptions
from pipeline.loading.batch import NO_LABEL

AnyProtocol = Annotated[
    LinearOptions
    | OnlineOptions
    | KnnOptions
    | SemiSupervisedOptions
    | Voc07Options
    | ZeroShotOptions
    | RetrievalOptions,
    Field(discriminator="kind"),
]
Values = dict[str, Any]

DEPENDENCE_BATCH = 256


@dataclass(frozen=True)
class Setting:
    """What a protocol may use beside the subject: the images, stored features, device, seed."""

    images: Images
    references: Mapping[str, Subject]
    device: torch.device
    seed: int


def needed_splits(options: AnyProtocol, images: Images) -> tuple[Split, ...]:
    """Return the splits that a protocol looks at; it reports on the last one.

    Retrieval has nothing to fit: it looks at test images, or at validation where there are none.
    """
    if isinstance(options, RetrievalOptions):
        return ("test",) if "test" in images.loaders else ("validation",)
    return ("train", "validation", "test")


def score(options: AnyProtocol, subject: Subject, setting: Setting) -> Values:
    """Return the values of one protocol for one subject; accuracies in percent.

    Raises DataError if the images lack what the protocol needs.
    """
    match options:
        case LinearOptions():
            return _linear(options, subject, setting)
        case KnnOptions():
            return _knn(options, subject, setting)
        case RetrievalOptions():
            return _retrieval(options, subject, setting)


def _linear(options: LinearOptions, subject: Subject, setting: Setting) -> Values:
    train, validation, test = _probe_splits(subject, setting)
    result = linear_probe(train, validation, test, options=options, device=setting.device)
    chosen = result.l2s.index(result.l2)
    return {
        **_accuracies(result.test_logits, result.classifier.classes, test, setting.seed),
        "l2": result.l2,
        "validation_top1": 100 * result.validation_accuracies[chosen],
        "converged": result.converged[chosen],
    }


def _knn(options: KnnOptions, subject: Subject, setting: Setting) -> Values:
    train, validation, test = _probe_splits(subject, setting)
    result = knn_probe(train, validation, test, options=options, device=setting.device)
    return {
        **_accuracies(result.test_scores, result.classes, test, setting.seed),
        "k": result.k,
        "temperature": result.temperature,
        "validation_top1": 100 * max(result.validation_accuracies.values()),
    }


def _probe_splits(
    subject: Subject, setting: Setting
) -> tuple[LabelledFeatures, LabelledFeatures, LabelledFeatures]:
    images = setting.images
    return (
        images.labelled(subject, "train"),
        images.labelled(subject, "validation"),
        images.labelled(subject, "test"),
    )


def _accuracies(scores: Tensor, classes: Tensor, test: LabelledFeatures, seed: int) -> Values:
    """Return top-1 with its bootstrap interval, and top-5 where there are more classes."""
    hits = (classes[scores.argmax(dim=1)] == test.labels).double()
    top1 = bootstrap_interval(hits, seed=seed)
    values: Values = {
        "top1": 100 * top1.mean,
        "top1_low": 100 * top1.low,
        "top1_high": 100 * top1.high,
    }
    if len(classes) > 5:
        targets = torch.searchsorted(classes, test.labels)
        values["top5"] = 100 * top_k_accuracy(scores, targets, k=5)
    return values


def _retrieval(options: RetrievalOptions, subject: Subject, setting: Setting) -> Values:
    (split,) = needed_splits(options, setting.images)
    if split not in setting.images.loaders:
        raise DataError("Retrieval needs test or validation images, and there are none.")
    embeddings, labels = subject.of(split), setting.images.labels(split)
    known = labels != NO_LABEL
    possible = _possible(options, len(embeddings))
    described = retrieval(
        embeddings,
        options=possible,
        device=setting.device,
        labels=labels if known.all() else None,
    )
    values: Values = {"effective_rank": described.effective_rank}
    if described.recall is not None:
        values |= {f"recall_at_{k}": 100 * share for k, share in described.recall.items()}
    for name, reference in setting.references.items():
        if name == subject.name:
            continue
        other = reference.of(split)
        agreement = neighbour_agreement(
            embeddings, other, ks=possible.agreement_ks, device=setting.device
        )
        values[f"with_{name}"] = {
            **{f"agreement_at_{k}": 100 * share for k, share in agreement.items()},
            "dcor": _dependence(embeddings, other, setting.seed),
        }
    return values


def _possible(options: RetrievalOptions, images: int) -> RetrievalOptions:
    """Leave out every k that so few images cannot have as neighbours.

    Raises DataError if none is left.
    """
    left = {
        name: tuple(k for k in getattr(options, name) if k < images)
        for name in ("recall_ks", "agreement_ks")
    }
    if not all(left.values()):
        raise DataError(
            f"Retrieval among {images} images cannot have {options.agreement_ks} neighbours: "
            "give it more images by a larger dataset.split.validation or test, or smaller ks."
        )
    return options.model_copy(update=left)


def _dependence(x: Tensor, y: Tensor, seed: int) -> float:
    """Return the mean distance correlation over random batches that cover the images once."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    batches = torch.split(order, DEPENDENCE_BATCH)
    whole = [rows for rows in batches if len(rows) == DEPENDENCE_BATCH] or [order]
    values = [float(distance_correlation(x[rows], y[rows])) for rows in whole]
    return sum(values) / len(values)
