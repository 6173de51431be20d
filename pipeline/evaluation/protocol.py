"""The interface of a protocol: its options, its input besides the subject, and its outcome.

To add one, write a file with an options class (its choices, and `score`), and add a row to
`protocols.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.base.options import Options
from pipeline.base.progress import Progress
from pipeline.datasets.source import Split
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.labelled_features import LabelledFeatures, class_indices
from pipeline.evaluation.subjects import Subject
from pipeline.metrics.accuracy import (
    bootstrap_interval,
    class_averages,
    per_class_accuracy,
    top_k_accuracy,
)
from pipeline.models.checkpoint import Checkpoint
from pipeline.representations.representation import RepresentationOptions
from pipeline.training.trial import Trial, Wanted

Values = dict[str, Any]
BALANCED, SIZES = "balanced_accuracy", "class_sizes"


@dataclass(frozen=True)
class Setting:
    """What a protocol may use besides the subject.

    `references` are the stored features, and `specifications` the options that made them. `work` is
    a scratch directory. `wanted` names the options that are tuned for each subject; the values
    found are in the outcome's values, as `tuned`.
    """

    images: Images
    references: Mapping[str, Subject]
    specifications: Mapping[str, RepresentationOptions]
    checkpoint: Checkpoint
    device: torch.device
    seed: int
    work: Path
    progress: Progress
    wanted: Wanted = field(default_factory=Wanted)


@dataclass(frozen=True)
class Predictions:
    """One class per test image: rows of the split (N,), labels, guesses, confidence (N,)."""

    rows: Tensor
    actual: Tensor
    predicted: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class PerImage:
    """The value of each scored image: rows of the split (N,), values (N,) in [0, 1]."""

    rows: Tensor
    values: Tensor


@dataclass(frozen=True)
class Outcome:
    """One subject's score.

    `main` is the key of the main figure in `values`. If known, its 95 % interval is there too, as
    `<main>_low` and `<main>_high`. `images` counts the images that were used, by split. `details`
    go into the record only. `chance` is the main figure of a guess made without the image.
    `per_image` are values in [0, 1] whose mean, in percent, is the main figure; None if it is no
    mean.
    """

    main: str
    values: Values
    images: Mapping[Split, int]
    details: Values = field(default_factory=dict)
    predictions: Predictions | None = None
    chance: float | None = None
    per_image: PerImage | None = None


class ProtocolOptions(Options, ABC):
    """The options of one kind of protocol. A subclass sets `kind: Literal["..."]`."""

    # Whether pixels, stored features and the untrained encoder can be scored the same way.
    has_controls: ClassVar[bool] = True
    # Whether it trains the encoder further, so that it needs more than its features.
    fine_tunes: ClassVar[bool] = False

    kind: str

    @property
    def descends(self) -> bool:
        """Whether its fit has a learning rate and batches, which can be found by trying."""
        return False

    @abstractmethod
    def score(self, subject: Subject, setting: Setting) -> Outcome:
        """Score one subject; choose on validation, and only score test images.

        Raises DataError if the images lack what the protocol needs.
        """


def found_by_trying(trial: Trial, setting: Setting, *, batch_size: int, subject: Subject) -> Values:
    """Return the values that the setting wants found for one subject's fit, and print them.

    Raises TrainingError if nothing is found.
    """
    if not setting.wanted:
        return {}
    from pipeline.training.tuning import find  # imports Lightning, which takes seconds

    found = find(trial, setting.wanted, batch_size=batch_size)
    for name, value in found.items():
        setting.progress.note(f"{subject.name}: found {name} {value:.4g}")
    return found


def probe_splits(
    subject: Subject, images: Images
) -> tuple[LabelledFeatures, LabelledFeatures, LabelledFeatures]:
    """Return the labelled features of train, validation and test."""
    train, validation, test = (
        subject.labelled(images, split) for split in ("train", "validation", "test")
    )
    return train, validation, test


def sizes(train: object, validation: object, test: object) -> dict[Split, int]:
    """Return the number of images of each split."""
    return {"train": len(train), "validation": len(validation), "test": len(test)}  # type: ignore[arg-type]


def classified(
    shares: Tensor,
    classes: Tensor,
    setting: Setting,
    *,
    images: Mapping[Split, int],
    values: Values,
    details: Values | None = None,
) -> Outcome:
    """Return the outcome for the labelled test images' shares (N, K) of each class; rows sum to 1.

    `classes` (K,) are the labels of the columns. Accuracies are in percent, with top-5 if there are
    more than 5 classes. `class_sizes` has the number of classes with test images, and the images
    of the largest and the smallest. Chance is the accuracy of always naming the largest.
    """
    known = setting.images.known("test")
    labels = setting.images.labels("test")[known]
    shares = shares.cpu()
    places = shares.argmax(dim=1)
    predicted, targets = classes[places], class_indices(labels, classes)
    rows, hits = known.nonzero().flatten(), (predicted == labels).double()
    interval = bootstrap_interval(hits, seed=setting.seed)
    accuracies = {
        "top1": 100 * interval.mean,
        "top1_low": 100 * interval.low,
        "top1_high": 100 * interval.high,
    }
    averages = class_averages(places, targets, seed=setting.seed)
    for name, average in zip((BALANCED, "macro_f1"), averages, strict=True):
        accuracies |= {
            name: 100 * average.mean,
            f"{name}_low": 100 * average.low,
            f"{name}_high": 100 * average.high,
        }
    if len(classes) > 5:
        accuracies["top5"] = 100 * top_k_accuracy(shares, targets, k=5)
    by_class = 100 * per_class_accuracy(places, targets, classes=len(classes))
    names = setting.images.classes
    per_class = {
        names[label] if names else str(label): round(value, 4)
        for label, value in zip(classes.tolist(), by_class.tolist(), strict=True)
        if value == value  # a class without test images has none
    }
    counts = targets.bincount()
    present = counts[counts > 0]
    class_sizes = {
        "classes": len(present),
        "largest": present.max().item(),
        "smallest": present.min().item(),
    }
    return Outcome(
        main="top1",
        values={**accuracies, **values, SIZES: class_sizes},
        images=images,
        details={"top1_by_class": per_class, **(details or {})},
        predictions=Predictions(
            rows=rows,
            actual=labels,
            predicted=predicted,
            confidence=shares.gather(1, places[:, None])[:, 0],
        ),
        chance=100 * counts.max().item() / len(targets),
        per_image=PerImage(rows, hits),
    )
