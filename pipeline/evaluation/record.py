"""What a protocol leaves on disk: the whole record, a few figures for DVC, and each image's."""

import csv
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.atomic import atomic_path
from pipeline.base.errors import DataError
from pipeline.evaluation.setting import Outcome, Predictions, Values
from pipeline.metrics.paired import ScoredImages

LIBRARIES = ("mvmr", "torch", "torchvision", "numpy")
IMAGE = "image"


def full_record(outcomes: Mapping[str, Outcome], provenance: Values) -> Values:
    """Return everything: the student's values at the top, controls by name, and provenance.

    `chance` is what the main figure is by chance, where that is known. `images` counts those
    that the student's score was made from, by split.
    """
    (_, student), *controls = outcomes.items()
    return {
        "main": student.main,
        **student.values,
        **({} if student.chance is None else {"chance": student.chance}),
        "split": list(student.images)[-1],
        "images": dict(student.images),
        "controls": {name: outcome.values for name, outcome in controls},
        **provenance,
        "versions": {name: version(name) for name in LIBRARIES},
        "details": student.details,
    }


def summary(outcomes: Mapping[str, Outcome]) -> dict[str, float | str]:
    """Return the main figure alone, of student and controls: what `dvc metrics show` prints.

    It sorts columns by name, so that the 95 % interval of the student is one beside the student.
    """
    (name, student), *controls = outcomes.items()
    main = student.main
    low, high = (student.values.get(f"{main}_{end}") for end in ("low", "high"))
    interval = {} if low is None else {f"{name}_ci95": f"{low:.1f} to {high:.1f}"}
    others = {n: o.values[main] for n, o in controls if main in o.values}
    return {"figure": main, name: student.values[main], **interval, **others}


def write_predictions(
    path: Path, predictions: Predictions | None, *, classes: Sequence[str], names: Sequence[str]
) -> None:
    """Write one row a test image: its name, the true class, the predicted one, the confidence.

    Without predictions there are no rows, but there is a file, as DVC warns of empty folders.
    `names` are those of all valid images of the split.
    """

    def called(label: int) -> str:
        return classes[label] if classes else str(label)

    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "actual", "predicted", "confidence"])
        for row, actual, predicted, confidence in _rows(predictions) if predictions else ():
            writer.writerow([names[row], called(actual), called(predicted), f"{confidence:.4f}"])


def write_per_image(path: Path, outcomes: Mapping[str, Outcome], names: Sequence[str]) -> None:
    """Write one row a scored image: its name, and what each subject's main figure gets from it.

    That is 1 or 0 where an image is right or wrong, else a share. Subjects that are scored by
    another figure than the first are left out; so are all where the figure is no mean of images.
    `names` are those of all valid images of the split.
    """
    main = next(iter(outcomes.values())).main
    found = {n: o.per_image for n, o in outcomes.items() if o.per_image and o.main == main}
    columns = [each.values.tolist() for each in found.values()]
    rows = next(iter(found.values())).rows.tolist() if found else []
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([IMAGE, *found])
        for row, *values in zip(rows, *columns, strict=True):
            writer.writerow([names[row], *(f"{value:.6g}" for value in values)])


def read_per_image(path: Path) -> ScoredImages:
    """Return what `write_per_image` wrote. Raises DataError if it is not that."""
    with path.open(newline="", encoding="utf-8") as file:
        heads, *rows = list(csv.reader(file)) or [[]]
    try:
        if heads[:1] != [IMAGE]:
            raise ValueError(f"its first column is not {IMAGE!r}")
        values = np.array([row[1:] for row in rows], dtype=float).reshape(len(rows), len(heads) - 1)
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): run `mvmr evaluate`.") from error
    return ScoredImages([row[0] for row in rows], dict(zip(heads[1:], values.T, strict=True)))


def _rows(predictions: Predictions) -> Any:
    columns = (
        predictions.rows.tolist(),
        predictions.actual.tolist(),
        predictions.predicted.tolist(),
        predictions.confidence.tolist(),
    )
    return zip(*columns, strict=True)
