"""How strongly all spaces depend on each other: a heat map of distance correlation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.dependence.distance_correlation import Sample as Rows
from pipeline.dependence.distance_correlation import Statistic, distance_correlation
from pipeline.reporting.sample import STUDENT, Absent, ImageSample

IMAGES = 1024  # at most: their pairwise distances are kept for every space
LEAST_IMAGES = 32  # on 24, one in ten independent pairs has a value beyond 0.1; on 32, one in 30
BATCH = 256  # at most, for the plain statistic, whose bias depends on the number of images
SEED = 0


@dataclass(frozen=True)
class Gain:
    """Dependence of a space that the objective names on the encoder, before and after training."""

    name: str
    before: float
    student: float


@dataclass(frozen=True)
class Bias:
    """Both statistics between the student and a space, in order and with one side shuffled.

    Shuffled images have nothing in common, so any value other than 0 is bias.
    """

    name: str
    images: int
    plain: float
    plain_mixed: float
    corrected: float
    corrected_mixed: float


@dataclass(frozen=True)
class Dependence:
    """Bias-corrected squared distance correlation of each pair of spaces, on `images` images."""

    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    images: int
    gains: tuple[Gain, ...]
    bias: Bias


def dependence(sample: ImageSample, targets: Sequence[str]) -> Dependence | Absent:
    """Return the dependence of every pair of a sample's spaces.

    `targets` are the spaces that training read. The bias-corrected statistic is about 0 for
    independent spaces, whatever their widths.
    """
    images = min(IMAGES, len(sample.images))
    if images < LEAST_IMAGES:
        return Absent(f"fewer than {LEAST_IMAGES} images are too few; there are {images}")
    rows = {name: Rows(space[:images].double()) for name, space in sample.spaces.items()}
    values = {(a, b): _corrected(rows[a], rows[b]) for a in rows for b in rows}
    named = [name for name in targets if name in rows]
    return Dependence(
        names=tuple(rows),
        values=tuple(tuple(values[a, b] for b in rows) for a in rows),
        images=images,
        gains=tuple(Gain(n, values[sample.before, n], values[STUDENT, n]) for n in named),
        bias=_bias(sample.spaces, named[0] if named else list(rows)[-1]),
    )


def _bias(spaces: Mapping[str, torch.Tensor], name: str) -> Bias:
    x, y = (spaces[space][:BATCH].double() for space in (STUDENT, name))
    mixed = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(SEED))]
    return Bias(
        name=name,
        images=len(x),
        plain=_value(Rows(x), Rows(y), "dcor"),
        plain_mixed=_value(Rows(x), Rows(mixed), "dcor"),
        corrected=_corrected(Rows(x), Rows(y)),
        corrected_mixed=_corrected(Rows(x), Rows(mixed)),
    )


def _corrected(x: Rows, y: Rows) -> float:
    return _value(x, y, "dcor_squared_unbiased")


def _value(x: Rows, y: Rows, statistic: Statistic) -> float:
    return float(distance_correlation(x, y, statistic=statistic))
