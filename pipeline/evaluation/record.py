"""What a protocol leaves on disk: the whole record, a few figures for DVC, and predictions."""

import csv
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.evaluation.setting import Outcome, Predictions, Values
from pipeline.runtime import atomic_path

LIBRARIES = ("mvmr", "torch", "torchvision", "numpy")


def full_record(outcomes: Mapping[str, Outcome], provenance: Values) -> Values:
    """Return everything: the student's values at the top, controls by name, and provenance.

    `images` counts those that the student's score was made from, by split.
    """
    (_, student), *controls = outcomes.items()
    return {
        "main": student.main,
        **student.values,
        "split": list(student.images)[-1],
        "images": dict(student.images),
        "controls": {name: outcome.values for name, outcome in controls},
        **provenance,
        "versions": {name: version(name) for name in LIBRARIES},
        "details": student.details,
    }


def summary(outcomes: Mapping[str, Outcome]) -> dict[str, float | str]:
    """Return the main figure alone, of student and controls: what `dvc metrics show` prints."""
    (_, student), *controls = outcomes.items()
    main = student.main
    bounds = {
        end: student.values[f"{main}_{end}"]
        for end in ("low", "high")
        if f"{main}_{end}" in student.values
    }
    others = {n: o.values[main] for n, o in controls if main in o.values}
    return {"figure": main, "student": student.values[main], **bounds, **others}


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


def _rows(predictions: Predictions) -> Any:
    columns = (
        predictions.rows.tolist(),
        predictions.actual.tolist(),
        predictions.predicted.tolist(),
        predictions.confidence.tolist(),
    )
    return zip(*columns, strict=True)
