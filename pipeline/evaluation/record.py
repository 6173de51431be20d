"""What a protocol writes: the full record, a few figures for DVC, and one row per image."""

import csv
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.atomic import atomic_path
from pipeline.base.errors import DataError
from pipeline.base.text import spoken
from pipeline.evaluation.protocol import BALANCED, SIZES, Outcome, Predictions, Values
from pipeline.metrics.paired import ScoredImages

LIBRARIES = ("mvmr", "torch", "torchvision", "numpy")
IDENTITY = "identity"
IMAGE = "image"
UNEQUAL = 3


def full_record(outcomes: Mapping[str, Outcome], provenance: Values) -> Values:
    """Return everything: the student's values at the top, controls by name, and provenance.

    `chance` is the main figure by chance, if that is known. `images` counts the images that the
    student's score is based on, by split.
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


def leading(record: Mapping[str, Any]) -> str:
    """Return the figure that is told first: the main one, or balanced accuracy.

    The latter leads where the largest class has more than `UNEQUAL` times as many images as the
    smallest. Records of earlier versions do not know the sizes of classes.
    """
    sizes = record.get(SIZES)
    unequal = sizes is not None and sizes["largest"] > UNEQUAL * sizes["smallest"]
    return BALANCED if unequal and BALANCED in record else str(record["main"])


def summary(outcomes: Mapping[str, Outcome]) -> dict[str, float | str]:
    """Return the main figure alone, of student and controls, for `dvc metrics show`.

    DVC sorts columns by name, so the student's 95 % interval is the column after the student.
    """
    (name, student), *controls = outcomes.items()
    main = student.main
    low, high = (student.values.get(f"{main}_{end}") for end in ("low", "high"))
    interval = {} if low is None else {f"{name}_ci95": f"{low:.1f} to {high:.1f}"}
    others = {n: o.values[main] for n, o in controls if main in o.values}
    return {"figure": main, name: student.values[main], **interval, **others}


def headline(record: Mapping[str, Any]) -> str:
    """Return the leading figure of the student, with its interval if it has one."""
    main = leading(record)
    interval = (record.get(f"{main}_low"), record.get(f"{main}_high"))
    between = f" ({interval[0]:.4g} to {interval[1]:.4g})" if None not in interval else ""
    value = record.get(main)
    return f"{spoken(main)} {value:.4g}{between}" if value is not None else main


def write_predictions(
    path: Path, predictions: Predictions | None, *, classes: Sequence[str], names: Sequence[str]
) -> None:
    """Write one row per test image: its name, true class, predicted class and confidence.

    Without predictions, the file has no rows. It is still written, because DVC warns of empty
    folders. `names` are those of all valid images of the split.
    """

    def called(label: int) -> str:
        return classes[label] if classes else str(label)

    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "actual", "predicted", "confidence"])
        for row, actual, predicted, confidence in _rows(predictions) if predictions else ():
            writer.writerow([names[row], called(actual), called(predicted), f"{confidence:.4f}"])


def write_per_image(
    path: Path,
    outcomes: Mapping[str, Outcome],
    names: Sequence[str],
    identities: Sequence[str],
) -> None:
    """Write one row per scored image: its name, its identity, and its value for each subject.

    The main figure is the mean of the values: 1 or 0 for right or wrong, or shares. Subjects with
    another main figure than the first subject's are omitted. If the figure is not a mean over
    images, no rows are written. `names` and `identities` are those of all valid images of the
    split.
    """
    main = next(iter(outcomes.values())).main
    found = {n: o.per_image for n, o in outcomes.items() if o.per_image and o.main == main}
    columns = [each.values.tolist() for each in found.values()]
    rows = next(iter(found.values())).rows.tolist() if found else []
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([IMAGE, IDENTITY, *found])
        for row, *values in zip(rows, *columns, strict=True):
            numbers = (f"{value:.6g}" for value in values)
            writer.writerow([names[row], identities[row], *numbers])


def read_per_image(path: Path) -> ScoredImages:
    """Return what `write_per_image` wrote. Raises DataError if the file is damaged."""
    with path.open(newline="", encoding="utf-8") as file:
        heads, *rows = list(csv.reader(file)) or [[]]
    try:
        if heads[:1] != [IMAGE]:
            raise ValueError(f"its first column is not {IMAGE!r}")
        # Earlier versions did not write identities.
        first = 2 if heads[1:2] == [IDENTITY] else 1
        numbers = [row[first:] for row in rows]
        values = np.array(numbers, dtype=float).reshape(len(rows), len(heads) - first)
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}): run `mvmr evaluate`.") from error
    return ScoredImages(
        [row[0] for row in rows],
        dict(zip(heads[first:], values.T, strict=True)),
        [row[1] for row in rows] if first == 2 else [],
    )


def _rows(predictions: Predictions) -> Any:
    columns = (
        predictions.rows.tolist(),
        predictions.actual.tolist(),
        predictions.predicted.tolist(),
        predictions.confidence.tolist(),
    )
    return zip(*columns, strict=True)
