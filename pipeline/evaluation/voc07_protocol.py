"""Multi-label classification of frozen features, as in the evaluation of VOC 2007.

Each class has its own binary logistic regression; objects marked difficult count neither way. The
penalty is chosen on validation, among fits on train; together these splits are VOC's trainval. The
classifier is then fitted on both, and scored once on test. If there is an `augmentation`, it is
fitted as published instead, by gradient descent on augmented views of train alone. The encoder is
always in evaluation mode, so its batch norm does not drift.
"""

from typing import Literal

import torch

from pipeline.base.arguments import require_features
from pipeline.base.errors import DataError
from pipeline.datasets.source import Split
from pipeline.evaluation.augmented_fit import augmented_fit, several_classes
from pipeline.evaluation.feature_batches import Rows
from pipeline.evaluation.fit_options import LinearFitOptions
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.logistic import LinearClassifier, fit_binary
from pipeline.evaluation.protocol import Outcome, Setting, Values
from pipeline.evaluation.subjects import Subject
from pipeline.metrics.average_precision import bootstrap_mean, chance_mean, mean_over_classes


class MultiLabelOptions(LinearFitOptions):
    """`evaluate.<name>` of kind voc07.

    Each of `l2` is tried, as a factor of ||w||^2 / 2, which is added to a class's mean loss. If
    there is an `augmentation`, the classifier is fitted by `fit` instead of to the optimum.
    """

    kind: Literal["voc07"] = "voc07"

    def score(self, subject: Subject, setting: Setting) -> Outcome:
        """Score one subject; mAP is the mean over classes of the 11-point average precision.

        Raises DataError if images have one class each, or if a class has no positive image in a
        split.
        """
        images = setting.images
        if not images.several_classes:
            raise DataError(
                "voc07 needs images with several classes each, and these have one: use linear."
            )
        splits: tuple[Split, ...] = ("train", "validation", "test")
        labelled = {split: _labelled(subject, images, split) for split in splits}
        if self.augmentation is None:
            setting.progress.start(f"fit {subject.name}", len(set(self.l2)) + 1, "fits")
            classifier, values = _exact_fit(
                labelled["train"], labelled["validation"], self, setting
            )
            tried = None
        else:
            fitted = augmented_fit(
                labelled["train"],
                labelled["validation"],
                several_classes(len(images.classes)),
                subject,
                setting,
                augmentation=self.augmentation,
                options=self.fit,
            )
            classifier, values, tried = fitted.classifier, fitted.chosen, fitted.tried
        present = labelled["test"].labels
        logits = classifier.logits(labelled["test"].features).cpu()
        means, areas = mean_over_classes(logits, present)
        interval = bootstrap_mean(logits, present, seed=setting.seed)
        return Outcome(
            main="map",
            values={
                "map": 100 * interval.mean,
                "map_low": 100 * interval.low,
                "map_high": 100 * interval.high,
                "map_area": 100 * means.area.item(),
                **values,
            },
            images={split: len(labelled[split].labels) for split in splits},
            chance=100 * chance_mean(present, seed=setting.seed),
            details={
                **({"tried": tried} if tried else {}),
                "area_by_class": {
                    name: round(100 * area, 4)
                    for name, area in zip(images.classes, areas.tolist(), strict=True)
                },
            },
        )


def _labelled(subject: Subject, images: Images, split: Split) -> Rows:
    """Return features (N, D) and labels (N, K) of the labelled images of a split.

    Raises DataError if a class has no positive image.
    """
    known = images.known(split)
    features, present = subject.of(split)[known], images.labels(split)[known]
    require_features(features)
    empty = [n for n, c in zip(images.classes, (present == 1).sum(dim=0), strict=True) if c == 0]
    if empty:
        raise DataError(
            f"No {split} image holds {', '.join(empty[:5])}; average precision is not defined "
            "there. Give the split more images."
        )
    return Rows(features, present)


def _exact_fit(
    train: Rows, validation: Rows, options: MultiLabelOptions, setting: Setting
) -> tuple[LinearClassifier, Values]:
    """Choose the penalty on validation, then fit on both."""
    strengths = sorted(set(options.l2), reverse=True)
    candidates = _fit(train, strengths, options, setting)
    score = several_classes(validation.labels.shape[1]).score
    scores = [score(c.logits(validation.features).cpu(), validation.labels) for c in candidates]
    best = scores.index(max(scores))
    both = Rows(
        torch.cat([train.features, validation.features]),
        torch.cat([train.labels, validation.labels]),
    )
    (classifier,) = _fit(both, [strengths[best]], options, setting)
    return classifier, {"validation_map": scores[best], "l2": strengths[best]}


def _fit(
    rows: Rows, l2s: list[float], options: MultiLabelOptions, setting: Setting
) -> list[LinearClassifier]:
    fits = fit_binary(
        rows.features,
        rows.labels,
        l2s=l2s,
        max_iterations=options.max_iterations,
        tolerance=options.tolerance,
        device=setting.device,
        progress=setting.progress,
    )
    return [classifier for classifier, _ in fits]
