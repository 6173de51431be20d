"""The results of a study: one JSON file for each run, in a folder for each data set.

`validation-600/vicreg-0.json` are the scores on validation images after 600 steps with seed 0.
They belong to the repository, so that a study goes on over days and machines.
"""

import csv
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.study.halving import Result, Run
from benchmarks.study.setups import Setup
from pipeline.base.atomic import write_json
from pipeline.training.curve_names import KNN, OBJECTIVE, PROBE

Recipe = Mapping[str, Any]
FOLDER = Path(__file__).parent / "results"
CURVE = {"probe": PROBE, "knn": KNN, "objective": OBJECTIVE}
CURVE_POINTS = 16
DIGITS = 4


def identifier(name: str) -> str:
    """Return a name for files and runs."""
    letters = "".join(c if c.isalnum() or c in ".+-" else "_" for c in name)
    return letters.replace("+", "and").replace(".", "p")


def file_of(folder: Path, run: Run) -> Path:
    """Return the file of a run's result in the folder of its data set."""
    return folder / f"{run.split}-{run.rung}" / f"{identifier(run.name)}-{run.seed}.json"


def write(folder: Path, run: Run, found: Result) -> None:
    """Write the result of a run, with rounded scores."""
    scores = {name: round(value, DIGITS) for name, value in found["scores"].items()}
    path = file_of(folder, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**asdict(run), **found, "scores": scores})


def read(setup: Setup, folder: Path) -> dict[Run, Result]:
    """Return all results in the folder of a data set, by run.

    Raises SystemExit if one is of another recipe than the candidate of that name has.
    """

    def recipe_of(name: str) -> Recipe | None:
        return setup.recipe(name) if name in setup.candidates else None

    return results_in(folder, recipe_of)


def results_in(folder: Path, recipe_of: Callable[[str], Recipe | None]) -> dict[Run, Result]:
    """Return all results in a folder, by run.

    Raises SystemExit if one is of another recipe than `recipe_of` returns for its name.
    """
    found = {}
    for path in sorted(folder.glob("*/*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        run = Run(**{name: result[name] for name in Run.__dataclass_fields__})
        recipe = recipe_of(run.name) if "recipe" in result else None
        if recipe is not None and json.loads(json.dumps(recipe)) != result["recipe"]:
            raise SystemExit(
                f"{path} was made by another recipe than {run.name!r} has now: give the "
                "candidate another name, or remove its results."
            )
        found[run] = result
    return found


def state(wanted: Iterable[Run], results: Container[Run]) -> Iterator[str]:
    """Yield a line for each wanted run that says whether it is done."""
    for run in wanted:
        done = "done" if run in results else "open"
        yield f"{done}  {run.split:10} {run.rung:>6}  {run.name}, seed {run.seed}"


def curve(path: Path) -> list[dict[str, float]]:
    """Return training's own curve on validation images, thinned evenly, with its last point."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = {"step": "step", **CURVE}
    points = [
        {key: round(float(row[name]), DIGITS) for key, name in wanted.items() if row.get(name)}
        for row in rows
    ]
    return thinned(points)


def thinned(points: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return at most `CURVE_POINTS` points at nearly equal distances, the last one among them."""
    every = -(-len(points) // CURVE_POINTS) or 1
    return points[::-every][::-1] if points else []
