"""What embeddings are worth for finding similar images, with labels or without.

Every image is a query, and all others are what it can find, by cosine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.config import Options
from pipeline.errors import DataError
from pipeline.evaluation.features import LabelledFeatures, check_features
from pipeline.evaluation.metrics import effective_rank
from pipeline.evaluation.neighbours import nearest

Ks = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)]

_QUERIES_AT_ONCE = 1024


class RetrievalOptions(Options):
    """`evaluate.<name>` of kind retrieval.

    `recall_ks` are used where images have labels, `agreement_ks` against a teacher.
    """

    kind: Literal["retrieval"] = "retrieval"
    recall_ks: Ks = (1, 5, 10)
    agreement_ks: Ks = (1, 10, 50)


@dataclass(frozen=True)
class RetrievalResult:
    """Shares in [0, 1] by k, None for what was not asked; `effective_rank` from 0 to D."""

    recall: dict[int, float] | None
    agreement: dict[int, float] | None
    effective_rank: float


def retrieval(
    embeddings: Tensor,
    *,
    options: RetrievalOptions,
    device: torch.device,
    labels: Tensor | None = None,
    teacher: Tensor | None = None,
) -> RetrievalResult:
    """Describe embeddings (N, D), with labels (N,) and a teacher's embeddings (N, D') if given."""
    check_features(embeddings)
    recall = agreement = None
    if labels is not None:
        labelled = LabelledFeatures(embeddings, labels)
        recall = recall_at(labelled, ks=options.recall_ks, device=device)
    if teacher is not None:
        agreement = neighbour_agreement(embeddings, teacher, ks=options.agreement_ks, device=device)
    return RetrievalResult(recall, agreement, effective_rank(embeddings.to(device)))


def recall_at(
    images: LabelledFeatures, *, ks: Sequence[int] = (1, 5, 10), device: torch.device
) -> dict[int, float]:
    """Return, for each k, the share of images with one of their class among the k nearest.

    An image that is alone in its class counts as a miss. Raises DataError if there are not
    more images than the largest k.
    """
    labels = images.labels.cpu()
    found = nearest(images.features, images.features, k=max(ks), device=device, exclude_self=True)
    hits = labels[found.indices] == labels[:, None]  # (N, k)
    return {k: hits[:, :k].any(dim=1).double().mean().item() for k in ks}


def neighbour_agreement(
    student: Tensor, teacher: Tensor, *, ks: Sequence[int] = (1, 10, 50), device: torch.device
) -> dict[int, float]:
    """Return, for each k, the mean share of an image's k neighbours that two spaces have in common.

    `student` (N, D) and `teacher` (N, D') embed the same images in the same order. Unrelated
    spaces agree on k / (N - 1). Raises DataError if they differ in N, or N is not above the
    largest k.
    """
    check_features(student)
    check_features(teacher)
    if len(student) != len(teacher):
        raise DataError(
            "Student and teacher must embed the same images; "
            f"found {len(student)} and {len(teacher)}."
        )
    a, b = (
        nearest(space, space, k=max(ks), device=device, exclude_self=True).indices
        for space in (student, teacher)
    )
    return {k: _overlap(a[:, :k], b[:, :k]) for k in ks}


def _overlap(a: Tensor, b: Tensor) -> float:
    """Return the mean size of the rows' common sets, as a share; each row (k,) is a set."""
    common = 0
    for rows_a, rows_b in zip(
        torch.split(a, _QUERIES_AT_ONCE), torch.split(b, _QUERIES_AT_ONCE), strict=True
    ):
        common += int((rows_a[:, :, None] == rows_b[:, None, :]).sum())  # (rows, k, k)
    return common / a.numel()
