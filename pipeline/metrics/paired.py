"""Two scores of the same images: how far apart they are, and whether that can be chance.

Comparing image by image removes what makes an image easy or hard for both sides. It can thus
detect differences that lie within the intervals of the two scores. The interval is a percentile
bootstrap over images. If every image is simply right or wrong, the test is McNemar's exact test
(Psychometrika 12, 1947): by chance, each side is as often the only one that is right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.base.errors import DataError
from pipeline.features.encoding import Array

LEVEL = 0.95
_RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """The score of each of N images, in [0, 1]: `values` (N,) by subject, ordered as `names`.

    `identities` are those of the images, in the same order, if they were recorded. `classes` are
    theirs if all classes are to count alike.
    """

    names: Sequence[str]
    values: Mapping[str, Array]
    identities: Sequence[str] = ()
    classes: Sequence[str] = ()

    def common(self, other: "ScoredImages") -> tuple[list[int], list[int]]:
        """Return the places of the images that both have, in this one and in the other."""
        theirs = {identity: place for place, identity in enumerate(other.identities)}
        ours = {identity: place for place, identity in enumerate(self.identities)}
        both = [identity for identity in ours if identity in theirs]
        return [ours[identity] for identity in both], [theirs[identity] for identity in both]


@dataclass(frozen=True)
class Paired:
    """A difference of means over the same images, in percentage points, with its 95 % interval.

    `wins` and `losses` count the images on which the first is better or worse; `p` is that of
    McNemar's exact test, or None if images are not simply right or wrong, or classes count alike.
    """

    difference: float
    low: float
    high: float
    wins: int
    losses: int
    images: int
    p: float | None

    @property
    def settled(self) -> bool:
        """Whether the interval, and the test if there is one, exclude a difference of 0."""
        outside = self.low > 0 or self.high < 0
        return outside and (self.p is None or self.p < 1 - LEVEL)

    @property
    def turned(self) -> "Paired":
        """The same comparison the other way round: the second minus the first."""
        return Paired(
            -self.difference, -self.high, -self.low, self.losses, self.wins, self.images, self.p
        )


def paired(first: Array, second: Array, *, seed: int, classes: Sequence[str] = ()) -> Paired:
    """Compare two scores (N,) of the same images, the first minus the second.

    With the `classes` (N,) of the images, the means of all classes count alike, and as many images
    of each are drawn as there are. Raises DataError if there are different numbers of images, or
    none, or if scores are not finite.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise DataError(
            f"Expected two scores of the same images; found {first.shape} and {second.shape}."
        )
    apart, source = first - second, np.random.default_rng(seed)
    if not np.isfinite(apart).all():
        raise DataError("Scores that are compared must be finite.")
    differences, drawn = zip(
        *(_drawn(part, source) for part in _parts(apart, classes)), strict=True
    )
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.mean(drawn, axis=0), [tail, 1 - tail])
    wins, losses = int((apart > 0).sum()), int((apart < 0).sum())
    binary = bool(np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all())
    return Paired(
        difference=float(100 * np.mean(differences)),
        low=float(100 * low),
        high=float(100 * high),
        wins=wins,
        losses=losses,
        images=len(first),
        p=mcnemar(wins, losses) if binary and not len(classes) else None,
    )


def class_mean(values: Array, classes: Sequence[str] = ()) -> float:
    """Return the mean of values (N,), or the mean of their means in each class."""
    return float(np.mean([part.mean() for part in _parts(values, classes)]))


def _parts(values: Array, classes: Sequence[str]) -> list[Array]:
    if not len(classes):
        return [values]
    _, of_image = np.unique(classes, return_inverse=True)
    order = np.argsort(of_image, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(of_image))[:-1])


def _drawn(values: Array, source: np.random.Generator) -> tuple[float, Array]:
    """Return the mean of values, and those of resamples of them.

    Few values are distinct, so we draw how often each value occurs. The distribution is that of
    drawing image by image, at a thousandth of the cost.
    """
    steps, counts = np.unique(values, return_counts=True)
    draws = source.multinomial(len(values), counts / len(values), size=_RESAMPLES)
    means: Array = draws @ steps / len(values)
    return float(counts @ steps) / len(values), means


def mcnemar(wins: int, losses: int) -> float:
    """Return the probability that a fair coin splits at least as unevenly as this."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
