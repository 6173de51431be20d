"""Checks of the command line that run before a stage is loaded."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from pipeline.base.errors import ConfigError, DataError, nearest, unknown_name
from stages.experiment.shipped import known_configs

# The word for an entry of each section.
ENTRIES = {"features": "feature", "evaluate": "protocol"}
RUNS = Path("runs")


def require_names(section: str, chosen: Iterable[str], names: Collection[str]) -> None:
    """Raise ConfigError for the first of the chosen names that a section does not have."""
    for name in chosen:
        if name not in names:
            raise ConfigError(unknown_name(ENTRIES[section], name, names))


def check_runs(names: Sequence[str]) -> None:
    """Check that every named run has a report, and that not only one is named.

    Raises a DataError that lists the runs without a report and those with one, or a ConfigError for
    a single name.
    """
    there = sorted(path.parent.name for path in RUNS.glob("*/report.json"))
    missing = [name for name in dict.fromkeys(names) if name not in there]
    if missing:
        some = ", ".join(map(repr, missing))
        which = f"a run {some}" if len(missing) == 1 else f"the runs {some}"
        made = "".join(f"{text} " for name in missing if (text := _how_to_make(name, there)))
        listed = (
            f"Runs with a report: {', '.join(there)}."
            if there
            else "No run has a report yet: run `mvmr report`."
        )
        raise DataError(f"There is no report of {which}. {made}{listed}")
    if len({*names}) == 1:
        raise ConfigError(
            "Name two or more runs to compare, or none for a report of the active one."
        )


def require_checkpoint(path: Path) -> None:
    """Raise DataError if a checkpoint that was named is missing; it lists those of the runs."""
    if path.exists():
        return
    there = ", ".join(map(str, sorted(RUNS.glob("*/checkpoints/best.pt"))))
    listed = f"Those of runs are {there}." if there else "No run has one yet."
    raise DataError(f"There is no checkpoint {str(path)!r}. {listed}")


def _how_to_make(name: str, there: Sequence[str]) -> str:
    config = known_configs().get(name)
    if (RUNS / name / "curves.csv").exists():
        named = (
            f"`mvmr report -c {config}`"
            if config is not None
            else "`mvmr report -c FILE`, where FILE is its experiment file"
        )
        return f"Write the report of {name!r} with {named}."
    if config is not None:
        return f"`mvmr use {name}` and `dvc repro` make the run, or restore it from DVC's cache."
    near = nearest(name, there)
    return f"Did you mean {near!r}?" if near else ""
