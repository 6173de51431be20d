"""Multi-label classification of frozen features, as VOC 2007 is evaluated.

One binary logistic regression a class; objects marked difficult count neither way. The penalty
is fitted on train and chosen on validation, which together are VOC's trainval; the classifier
is then fitted on both, and scored once on test. The encoder is in evaluation mode throughout, so
its batch norm does not drift.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.config import Options
from pipeline.datasets.base import Split
from pipeline.errors import DataError
from pipeline.evaluation.average_precision import bootstrap_mean, mean_over_classes
from pipeline.evaluation.features import check_features
from pipeline.evaluation.images import Images
from pipeline.evaluation.logistic import LinearClassifier, fit_binary
from pipeline.evaluation.setting import Outcome, Setting
from pipeline.evaluation.subjects import Subject


class Voc07Options(Options):
    """`evaluate.<name>` of kind voc07.

    Each of `l2`, a factor on ||w||^2 / 2 beside a class's mean loss, is tried.
    """

    kind: Literal["voc07"] = "voc07"
    l2: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False, min_length=1)] = (
        1e-1,
        1e-2,
        1e-3,
        1e-4,
    )
    max_iterations: Annotated[int, Field(ge=1)] = 100
    # The fit ends when no component of the gradient is larger.
    tolerance: Annotated[float, Field(gt=0)] = 3e-5


def score(options: Voc07Options, subject: Subject, setting: Setting) -> Outcome:
    """Score one subject; mAP is the mean over classes of the 11-point average precision.

    Raises DataError if images have one class each, or a class has no positive image in a split.
    """
    images = setting.images
    if not images.several_classes:
        raise DataError(
            "voc07 needs images with several classes each, and these have one: use linear."
        )
    splits: tuple[Split, ...] = ("train", "validation", "test")
    labelled = {split: _labelled(subject, images, split) for split in splits}
    strengths = sorted(set(options.l2), reverse=True)
    setting.progress.start(f"fit {subject.name}", 0, "")
    candidates = _fit(*labelled["train"], strengths, options, setting.device)
    validation = [_map(classifier, *labelled["validation"]) for classifier in candidates]
    best = validation.index(max(validation))
    x, y = (torch.cat([labelled[s][part] for s in ("train", "validation")]) for part in (0, 1))
    (classifier,) = _fit(x, y, [strengths[best]], options, setting.device)
    features, present = labelled["test"]
    logits = classifier.logits(features).cpu()
    means, areas = mean_over_classes(logits, present)
    interval = bootstrap_mean(logits, present, seed=setting.seed)
    return Outcome(
        main="map",
        values={
            "map": 100 * interval.mean,
            "map_low": 100 * interval.low,
            "map_high": 100 * interval.high,
            "map_area": 100 * means.area.item(),
            "validation_map": 100 * validation[best],
            "l2": strengths[best],
        },
        images={split: len(labelled[split][0]) for split in splits},
        details={
            "area_by_class": {
                name: round(100 * area, 4)
                for name, area in zip(images.classes, areas.tolist(), strict=True)
            }
        },
    )


def _labelled(subject: Subject, images: Images, split: Split) -> tuple[Tensor, Tensor]:
    """Return features (N, D) and labels (N, K) of the labelled images of a split.

    Raises DataError if a class has no positive image.
    """
    known = images.known(split)
    features, present = subject.of(split)[known], images.labels(split)[known]
    check_features(features)
    empty = [n for n, c in zip(images.classes, (present == 1).sum(dim=0), strict=True) if c == 0]
    if empty:
        raise DataError(
            f"No {split} image holds {', '.join(empty[:5])}; average precision is not defined "
            "there. Give the split more images."
        )
    return features, present


def _fit(
    features: Tensor,
    present: Tensor,
    l2s: list[float],
    options: Voc07Options,
    device: torch.device,
) -> list[LinearClassifier]:
    fits = fit_binary(
        features,
        present,
        l2s=l2s,
        max_iterations=options.max_iterations,
        tolerance=options.tolerance,
        device=device,
    )
    return [classifier for classifier, _ in fits]


def _map(classifier: LinearClassifier, features: Tensor, present: Tensor) -> float:
    means, _ = mean_over_classes(classifier.logits(features).cpu(), present)
    return means.eleven_point.item()
