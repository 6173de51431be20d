"""What a run's curves say against trusting its probes and its choice of an epoch."""

from collections.abc import Iterator, Mapping, Sequence

from pipeline.metrics.intervals import wilson
from pipeline.training.curve_names import KNN, LABELLED, LARGEST_CLASS, PROBE

Row = Mapping[str, float | None]
MOST_NAMED = 5


def doubts(rows: Sequence[Row], selection: Mapping[str, object]) -> Iterator[str]:
    """Yield a sentence for each reason to doubt, from rows of curves and what was selected.

    A probe is doubtful if the share of the largest class lies within its 95 % interval or above. A
    choice by a probe is doubtful if the scores of other epochs lie within that of the chosen one.
    Curves of earlier versions, which do not know the number of images, give no reasons.
    """
    row = next((row for row in rows if row.get("epoch") == selection.get("epoch")), None)
    if row is None:
        return
    images, largest = int(row.get(LABELLED) or 0), row.get(LARGEST_CLASS)
    if not images or largest is None:
        return
    epoch = f"{row['epoch']:g}"
    for column, name in ((PROBE, "The linear probe"), (KNN, "The vote of nearest neighbours")):
        score = row.get(column)
        if score is not None and largest >= _interval(score, images)[0]:
            yield (
                f"{name} of epoch {epoch} is right on {score:.1f} % of {images:,} validation "
                f"images, and naming the largest class for all would be right on {largest:.1f} %: "
                "it is not settled that it has learnt anything."
            )
    rule = str(selection.get("rule"))
    score = row.get(rule)
    if rule in (PROBE, KNN) and score is not None:
        low, high = _interval(score, images)
        near = [
            f"{other['epoch']:g}"
            for other in rows
            if other is not row and (other.get(rule) or 0.0) >= low
        ]
        if near:
            yield (
                f"{_epochs(near)} {'scores' if len(near) == 1 else 'score'} within the 95 % "
                f"interval of the chosen epoch {epoch}, {low:.1f} to {high:.1f} % of {images:,} "
                "validation images: the choice among them may be chance."
            )


def _interval(score: float, images: int) -> tuple[float, float]:
    low, high = wilson(score / 100 * images, images)
    return 100 * low, 100 * high


def _epochs(numbers: Sequence[str]) -> str:
    if len(numbers) == 1:
        return f"Epoch {numbers[0]}"
    if len(numbers) > MOST_NAMED:
        return f"{len(numbers)} other epochs"
    return f"Epochs {', '.join(numbers[:-1])} and {numbers[-1]}"
