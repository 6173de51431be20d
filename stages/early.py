"""What is wrong with a command line that can be said before the libraries are loaded."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, DataError, nearest, unknown_name

# Commands that name entries of a section of the experiment file: --only NAME.
SECTIONS = {"extract_features": ("features", "feature"), "evaluate": ("evaluate", "protocol")}
RUNS, CONFIGS = Path("runs"), Path("configs")


def check(stage: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError or DataError for names that do not exist, where that is easily seen.

    The stage itself looks at everything else, and again at these.
    """
    if options.get("runs"):
        check_runs(options["runs"])
    elif stage != "doctor" and options.get("config") and not _needs_no_experiment(options):
        _check_experiment(stage, options)


def _needs_no_experiment(options: Mapping[str, Any]) -> bool:
    return any(options.get(name) is not None for name in ("path", "exported", "checkpoint"))


def _check_experiment(stage: str, options: Mapping[str, Any]) -> None:
    from pipeline.config import override, read_yaml
    from stages.naming import refuse_misspelt

    path, assignments = options["config"], options["assignments"]
    data = read_yaml(path)
    changed = override(data, assignments)
    refuse_misspelt(path, data, assignments)
    section, what = SECTIONS.get(stage, ("", ""))
    names = changed.get(section)
    if isinstance(names, Mapping):
        check_names(what, options.get("only", ()), names)


def check_names(what: str, chosen: Sequence[str], names: Iterable[str]) -> None:
    """Raise ConfigError for the first of the chosen names that there is not."""
    known = [*names]
    for name in chosen:
        if name not in known:
            raise ConfigError(unknown_name(what, name, known))


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
