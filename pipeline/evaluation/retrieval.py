"""How well embeddings find similar images, with labels or without.

Every image is a query, and is compared with all others by cosine.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.base.arguments import require_features, require_shape
from pipeline.base.errors import DataError
from pipeline.datasets.source import Split
from pipeline.dependence.distance_correlation import UNBIASED_MINIMUM_ROWS, distance_correlation
from pipeline.evaluation.geometry import AS_THEY_ARE, Whitenings, in_geometry
from pipeline.evaluation.labelled_features import LabelledFeatures
from pipeline.evaluation.protocol import Outcome, PerImage, ProtocolOptions, Setting, Values
from pipeline.evaluation.subjects import Subject
from pipeline.loading.batch import NO_LABEL
from pipeline.metrics.accuracy import bootstrap_interval
from pipeline.metrics.effective_rank import effective_rank
from pipeline.metrics.neighbours import nearest

Ks = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)]

DEPENDENCE_BATCH = 256
AGREEMENT_K = 10

_QUERIES_AT_ONCE = 1024


class RetrievalOptions(ProtocolOptions):
    """`evaluate.<name>` of kind retrieval.

    `recall_ks` are used if images have labels, `agreement_ks` for comparisons with stored features.
    If test and validation images have labels, recall is that of the geometry of `whiten` with the
    highest one on validation images, see `geometry.py`.
    """

    kind: Literal["retrieval"] = "retrieval"
    recall_ks: Ks = (1, 5, 10)
    agreement_ks: Ks = (1, 10, 50)
    whiten: Whitenings = AS_THEY_ARE

    def score(self, subject: Subject, setting: Setting) -> Outcome:
        """Score one subject on test images, or on validation images if there is no test split.

        The main figure is recall at the smallest k if every image has one label. Else it is
        agreement at 10 (or the largest smaller k) with the first stored feature, else the effective
        rank.
        """
        images = setting.images
        split: Split = "test" if "test" in images.splits else "validation"
        if split not in images.splits:
            raise DataError("Retrieval needs test or validation images, and there are none.")
        embeddings, labels = subject.of(split), images.labels(split)
        options = _possible(self, len(embeddings))
        labelled_all = not images.several_classes and bool((labels != NO_LABEL).all())
        others = {n: space for n, space in setting.references.items() if n != subject.name}
        searches = labelled_all + len(others)
        setting.progress.start(f"neighbours of {subject.name}", searches, "searches")
        values: Values = {}
        main, shares, chance = "effective_rank", None, None
        if labelled_all:
            labelled = LabelledFeatures(embeddings, labels)
            if len(self.whiten) > 1:
                values["whiten"] = how = self._best_geometry(subject, setting, split)
                labelled = LabelledFeatures(in_geometry(embeddings, exponent=how)[0], labels)
            hits = recall_at(labelled, ks=options.recall_ks, device=setting.device)
            values |= {f"recall_at_{k}": 100 * hit.mean().item() for k, hit in hits.items()}
            k = min(hits)
            main, shares, chance = f"recall_at_{k}", hits[k], chance_of_recall(labels, k=k)
            setting.progress.advance(1)
        for name, reference in others.items():
            other = reference.of(split)
            found = neighbour_agreement(
                embeddings, other, ks=options.agreement_ks, device=setting.device
            )
            values[f"with_{name}"] = {
                f"agreement_at_{k}": 100 * share.mean().item() for k, share in found.items()
            }
            if len(other) >= UNBIASED_MINIMUM_ROWS:
                dependence = mean_dependence(embeddings, other, setting.seed)
                values[f"with_{name}"]["dcor_squared_unbiased"] = dependence
            setting.progress.advance(1)
            if shares is None:
                k = max((k for k in found if k <= AGREEMENT_K), default=min(found))
                main, shares = f"agreement_at_{k}_with_{name}", found[k]
                chance = k / (len(embeddings) - 1)
        values["effective_rank"] = effective_rank(embeddings.to(setting.device))
        if shares is not None:
            values = {**_interval(main, shares, setting.seed), **values}
        every = torch.arange(len(embeddings))
        return Outcome(
            main=main,
            values=values,
            images={split: len(embeddings)},
            chance=None if chance is None else 100 * chance,
            per_image=None if shares is None else PerImage(every, shares),
        )

    def _best_geometry(self, subject: Subject, setting: Setting, split: Split) -> float | None:
        """Return the geometry of highest recall on labelled validation images."""
        if split == "validation" or "validation" not in setting.images.splits:
            return self.whiten[0]
        labelled, k = subject.labelled(setting.images, "validation"), min(self.recall_ks)
        if len(labelled) <= k:
            return self.whiten[0]
        recalls = {}
        for how in self.whiten:
            (rows,) = in_geometry(labelled.features, exponent=how)
            own = LabelledFeatures(rows, labelled.labels)
            recalls[how] = recall_at(own, ks=(k,), device=setting.device)[k].mean().item()
        return max(recalls, key=lambda how: recalls[how])


def recall_at(
    images: LabelledFeatures, *, ks: Sequence[int] = (1, 5, 10), device: torch.device
) -> dict[int, Tensor]:
    """Return, for each k, 1 where an image of the same class is among the k nearest, else 0 (N,).

    An image that is alone in its class counts as a miss. Raises DataError unless there are more
    images than the largest k.
    """
    labels = images.labels.cpu()
    found = nearest(images.features, images.features, k=max(ks), device=device, exclude_self=True)
    hits = labels[found.indices] == labels[:, None]  # (N, k)
    return {k: hits[:, :k].any(dim=1).double() for k in ks}


def chance_of_recall(labels: Tensor, *, k: int) -> float:
    """Return the chance that k random others include an image of the same class, by labels (N,)."""
    sizes = torch.unique(labels, return_counts=True)[1].double()
    missed = torch.ones_like(sizes)
    for drawn in range(k):  # without replacement, from the images of other classes
        missed *= ((len(labels) - sizes - drawn) / (len(labels) - 1 - drawn)).clamp_min(0)
    return float(1 - (missed * sizes).sum() / len(labels))


def neighbour_agreement(
    student: Tensor, teacher: Tensor, *, ks: Sequence[int] = (1, 10, 50), device: torch.device
) -> dict[int, Tensor]:
    """Return, for each k, the share (N,) of an image's k neighbours that two spaces have in common.

    `student` (N, D) and `teacher` (N, D') embed the same images in the same order. Unrelated spaces
    agree on k / (N - 1) on average. Raises DataError if they differ in N, or if N is not above the
    largest k.
    """
    require_features(student)
    require_features(teacher)
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


def mean_dependence(x: Tensor, y: Tensor, seed: int) -> float:
    """Return the mean bias-corrected squared distance correlation over random batches.

    No image is in two batches. The uncorrected statistic would be far from 0 for unrelated spaces.
    Raises TrainingError for fewer than four images, DataError if `x` and `y` differ in them.
    """
    require_shape(y, "vectors", (len(x), *y.shape[1:]))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    batches = torch.split(order, DEPENDENCE_BATCH)
    whole = [rows for rows in batches if len(rows) == DEPENDENCE_BATCH] or [order]
    values = [
        float(distance_correlation(x[rows], y[rows], statistic="dcor_squared_unbiased"))
        for rows in whole
    ]
    return sum(values) / len(values)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return the share (N,) of elements that rows of `a` and `b` (N, k) have in common."""
    parts = [
        (rows_a[:, :, None] == rows_b[:, None, :]).sum(dim=(1, 2))  # (rows, k, k)
        for rows_a, rows_b in zip(
            torch.split(a, _QUERIES_AT_ONCE), torch.split(b, _QUERIES_AT_ONCE), strict=True
        )
    ]
    return torch.cat(parts).double() / a.shape[1]


def _interval(name: str, shares: Tensor, seed: int) -> Values:
    """Return a mean in percent under `name`, with its bounds."""
    interval = bootstrap_interval(shares, seed=seed)
    bounds = {"": interval.mean, "_low": interval.low, "_high": interval.high}
    return {f"{name}{end}": 100 * value for end, value in bounds.items()}


def _possible(options: RetrievalOptions, images: int) -> RetrievalOptions:
    """Return the options with only those k that are below the number of images.

    Raises DataError if none is left.
    """
    left = {
        name: tuple(k for k in getattr(options, name) if k < images)
        for name in ("recall_ks", "agreement_ks")
    }
    for name, possible in left.items():
        if not possible:
            raise DataError(
                f"{name} asks for {min(getattr(options, name))} neighbours or more, and among "
                f"{images} images there are {images - 1}: give it smaller ones, or more images by "
                "a larger dataset.split.validation or test."
            )
    return options.model_copy(update=left)
