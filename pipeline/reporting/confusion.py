"""Where a classifier errs: confused classes, accuracy of each class, most confident mistakes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.metrics.intervals import wilson
from pipeline.reporting.pictures import picture
from pipeline.reporting.sample import Absent, ImageSample

WHOLE_MATRIX = 20  # classes at most
PAIRS, MISTAKES = 12, 12


@dataclass(frozen=True)
class Prediction:
    """One test image: its name, true class, predicted class, and the classifier's confidence."""

    image: str
    actual: str
    predicted: str
    confidence: float

    @property
    def right(self) -> bool:
        """Whether the prediction is correct."""
        return self.actual == self.predicted


@dataclass(frozen=True)
class ClassScore:
    """The accuracy within a class, in percent, with its 95 % interval (Wilson's)."""

    name: str
    images: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Confusion:
    """Counts by true class (row) and predicted class; empty where there are too many classes.

    A kind of error is a pair of true and predicted class. There are `kinds` of them on `wrong`
    images, and `repeated` of them occur more than once. `pairs` are the most frequent repeated
    ones: true class, predicted class, images with this error, images of the true class.
    """

    protocol: str
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[str, str, int, int], ...]
    kinds: int
    repeated: int
    by_class: tuple[ClassScore, ...]
    images: int
    wrong: int

    def share(self, row: int, column: int) -> float:
        """Return the share of class `row` that is predicted as class `column`, in [0, 1]."""
        return self.counts[row][column] / max(1, sum(self.counts[row]))


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction, with its image."""

    uri: str
    prediction: Prediction


@dataclass(frozen=True)
class Mistakes:
    """The wrong predictions of highest confidence among the first `images` test images."""

    protocol: str
    mistakes: tuple[Mistake, ...]
    images: int
    wrong: int


def confusion(
    protocol: str, predictions: Sequence[Prediction], classes: Sequence[str]
) -> Confusion | Absent:
    """Return which classes are mistaken for which; `classes` gives their order."""
    if not predictions:
        return Absent("no protocol of this run predicts one class per image")
    sizes = Counter(p.actual for p in predictions)
    cells = Counter((p.actual, p.predicted) for p in predictions)
    present = {name for cell in cells for name in cell}
    ordered = [name for name in classes if name in present] + sorted(present - set(classes))
    errors = Counter({cell: n for cell, n in cells.items() if cell[0] != cell[1]})
    repeated = Counter({cell: n for cell, n in errors.items() if n > 1})
    whole = len(ordered) <= WHOLE_MATRIX
    return Confusion(
        protocol=protocol,
        classes=tuple(ordered),
        counts=tuple(tuple(cells[a, b] for b in ordered) for a in ordered) if whole else (),
        pairs=tuple((a, b, n, sizes[a]) for (a, b), n in repeated.most_common(PAIRS)),
        kinds=len(errors),
        repeated=len(repeated),
        by_class=tuple(_class_score(a, cells[a, a], sizes[a]) for a in ordered if sizes[a]),
        images=len(predictions),
        wrong=errors.total(),
    )


def _class_score(name: str, right: int, images: int) -> ClassScore:
    low, high = wilson(right, images)
    return ClassScore(name, images, 100 * right / images, 100 * low, 100 * high)


def mistakes(
    protocol: str, predictions: Sequence[Prediction], sample: ImageSample
) -> Mistakes | Absent:
    """Return the most confident mistakes among the images of a sample."""
    if not predictions:
        return Absent("no protocol of this run predicts one class per image")
    rows = {name: row for row, name in enumerate(sample.names)}
    seen = [p for p in predictions if p.image in rows]
    wrong = sorted((p for p in seen if not p.right), key=lambda p: -p.confidence)
    if not wrong:
        return Absent(f"there are no mistakes among {len(seen)} test images")
    return Mistakes(
        protocol=protocol,
        mistakes=tuple(Mistake(picture(sample.images[rows[p.image]]), p) for p in wrong[:MISTAKES]),
        images=len(seen),
        wrong=len(wrong),
    )
