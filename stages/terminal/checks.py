"""What is wrong with a command line that can be said before a stage is loaded."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from pipeline.base.errors import ConfigError, DataError, nearest, unknown_name

# What an entry of a section is called.
ENTRIES = {"features": "feature", "evaluate": "protocol"}
RUNS, CONFIGS = Path("runs"), Path("configs")


def require_names(section: str, chosen: Iterable[str], names: Collection[str]) -> None:
    """Raise ConfigError for the first of the chosen names that a section does not have."""
    for name in chosen:
        if name not in names:
            raise ConfigError(unknown_name(ENTRIES[section], name, names))


def check_runs(names: Sequence[str]) -> None:
    """Raise DataError that names every run which has no report to be compared, and those that do.

    Raises ConfigError for a single name, with which nothing can be compared.
    """
    there = sorted(path.parent.name for path in RUNS.glob("*/report.json"))
    missing = [name for name in dict.fromkeys(names) if name not in there]
    if missing:
        some = ", ".join(map(repr, missing))
        which = f"a run {some}" if len(missing) == 1 else f"the runs {some}"
        made = "".join(f"{text} " for name in missing if (text := _how_to_make(name, there)))
        listed = f"Runs with a report: {', '.join(there)}." if there else "No run has a report yet."
        raise DataError(f"There is no report of {which}. {made}{listed}")
    if len(names) == 1:
        raise ConfigError("Comparing needs two runs or more; name none for the active one.")


def _how_to_make(name: str, there: Sequence[str]) -> str:
    config = CONFIGS / f"{name}.yaml"
    if (RUNS / name / "curves.csv").exists():
        named = f"`mvmr report -c {config}`" if config.exists() else "`mvmr report` with its config"
        return f"Make that of {name!r} by {named}."
    if config.exists():
        return f"`mvmr use {name}` and `dvc repro` make the run, or take it out of DVC's cache."
    near = nearest(name, there)
    return f"Did you mean {near!r}?" if near else ""
