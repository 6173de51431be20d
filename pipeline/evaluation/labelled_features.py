"""Features and labels in the form that protocols take, checked once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.base.arguments import require_features
from pipeline.base.errors import DataError
from pipeline.base.text import counted
from pipeline.loading.batch import NO_LABEL


@dataclass(frozen=True)
class LabelledFeatures:
    """Features (N, D), floating and finite, with one integer label each (N,).

    Raises DataError if they are not.
    """

    features: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        require_features(self.features)
        if self.labels.shape != (len(self.features),):
            raise DataError(
                f"Expected one label for each of {counted(len(self.features), 'images')}; "
                f"found labels of shape {tuple(self.labels.shape)}.{self._remedy()}"
            )
        if self.labels.is_floating_point() or self.labels.is_complex():
            raise DataError(
                f"Expected integer labels; found {self.labels.dtype}. Classes are integers: "
                "labels.long() or labels.astype(int) makes them so, if they are whole numbers."
            )
        if self.labels.dtype == torch.bool:
            raise DataError(
                "Expected integer labels; found torch.bool. labels.long() or labels.astype(int) "
                "makes them 0 and 1."
            )
        unlabelled = int((self.labels == NO_LABEL).sum())
        if unlabelled:
            raise DataError(
                f"Expected a label for every image; {counted(unlabelled, 'images')} without one "
                f"({NO_LABEL}) must be left out."
            )

    def _remedy(self) -> str:
        """Return how to make labels of a form that is often met one for each image."""
        columns = self.labels.shape[1] if self.labels.ndim == 2 else 0
        if not columns or len(self.labels) != len(self.features):
            return ""
        if columns == 1:
            return " Write labels[:, 0] for a column."
        return " Write labels.argmax(1) for one-hot rows; images of several classes are no classes."

    def __len__(self) -> int:
        return len(self.features)


def classes_of(training: Tensor, *others: Tensor) -> Tensor:
    """Return the sorted distinct labels (K,) of training labels (N,), on the CPU.

    Raises DataError if there are fewer than two, or if `others` (M,) hold labels that no
    training image has.
    """
    classes = _distinct(training)
    if len(classes) < 2:
        raise DataError(
            f"A classifier needs at least two classes; all {len(training)} training images "
            f"have the label {int(classes[0])}."
        )
    for other in others:
        found = _distinct(other)
        unseen = found[~torch.isin(found, classes)]
        if len(unseen):
            raise DataError(
                f"Labels {unseen[:5].tolist()} occur in evaluation but not among the "
                f"{len(classes)} classes of the training images."
            )
    return classes


def class_indices(labels: Tensor, classes: Tensor) -> Tensor:
    """Return the index (N,), on the CPU, of each label (N,) in the sorted `classes` (K,).

    Raises DataError if a label is none of them.
    """
    labels = labels.cpu().contiguous()
    places = torch.searchsorted(classes, labels)
    unknown = labels[classes[places.clamp(max=len(classes) - 1)] != labels]
    if len(unknown):
        raise DataError(f"Label {int(unknown[0])} is none of the {len(classes)} classes.")
    return places


def _distinct(labels: Tensor) -> Tensor:
    distinct: Tensor = torch.unique(labels.cpu())
    return distinct
