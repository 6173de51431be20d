"""`mvmr use`: check a config and make it the active experiment."""

from pathlib import Path

from pipeline.base.atomic import atomic_path
from pipeline.base.errors import ConfigError
from stages.experiment.config_summary import COLUMNS, summary_of
from stages.experiment.dvc_lock import settle
from stages.experiment.paths import last_used
from stages.experiment.shipped import (
    OWN_CONFIGS,
    config_path,
    known_configs,
    shipped_configs,
)
from stages.terminal.console import Screen
from stages.terminal.interruption import at_once
from stages.terminal.result import Column, Result, rows_table

ACTIVE = Path("params.yaml")


def use(screen: Screen, *, name: str | None, listing: bool, force: bool) -> Result:
    """Check a config and make it the active one, or list the available configs."""
    if listing or name is None:
        return _list()
    path = config_path(name)
    screen.progress.start("loading libraries", 0, "")
    with at_once():
        from stages.experiment.schema import load
    screen.progress.finish()
    experiment = load(path)
    if ACTIVE.exists() and not force and not _is_a_copy(ACTIVE):
        raise ConfigError(
            f"{ACTIVE} has edits that no config holds. Save it as {OWN_CONFIGS}/YOUR_NAME.yaml, or "
            "overwrite it with --force."
        )
    content = path.read_bytes()
    for target in (last_used(), ACTIVE):
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)
    settle(experiment, screen.progress)
    values = {"experiment": experiment.name, "digest": experiment.digest(), "config": str(path)}
    line = f"{experiment.name} is the active experiment. `mvmr plan` estimates its cost."
    following = ["dvc", "repro"] if Path("dvc.yaml").exists() else ["mvmr", "shard"]
    return Result(values, [line], following)


def _list() -> Result:
    rows = [summary_of(path) for path in known_configs().values()]
    columns = [Column(key, key) for key in COLUMNS]
    shown = rows_table("Experiments", columns, rows, text_columns=len(columns))
    return Result({"configs": rows}, [shown], ["mvmr", "use", "NAME"])


def _is_a_copy(path: Path) -> bool:
    """Return whether a file equals one of the configs, or what this command last wrote."""
    content = path.read_bytes()
    known = [*known_configs().values(), *shipped_configs().values(), last_used()]
    return any(other.exists() and other.read_bytes() == content for other in known)
