"""`mvmr use`: check a config and make it the active experiment."""

import re
from pathlib import Path

import click

from pipeline.config import read_yaml
from pipeline.errors import ConfigError, unknown_name
from pipeline.runtime import atomic_path
from stages.console import table
from stages.options import console

CONFIGS = Path("configs")
ACTIVE = Path("params.yaml")


@click.command("use")
@click.argument("name", required=False)
@click.option("--list", "listing", is_flag=True, help="Show the configs there are.")
@click.option("--force", is_flag=True, help="Overwrite an edited params.yaml.")
def command(name: str | None, listing: bool, force: bool) -> None:
    """Check configs/NAME.yaml (or a file) and copy it to params.yaml."""
    screen = console()
    if not CONFIGS.is_dir():
        raise ConfigError(
            f"There is no folder {CONFIGS}/ here ({Path.cwd()}): change to the root of the project."
        )
    if listing or name is None:
        rows = [_summary(path) for path in sorted(CONFIGS.glob("*.yaml"))]
        columns = ["name", "data", "teacher", "student", "cost"]
        screen.print(table("Experiments", columns, rows, text_columns=len(columns)))
        return
    path = _config_path(name)
    from stages.experiment import load

    experiment = load(path)
    if ACTIVE.exists() and not force and not _is_a_config(ACTIVE):
        raise ConfigError(
            f"{ACTIVE} has edits that no file in {CONFIGS} holds. Save it as "
            f"{CONFIGS}/YOUR_NAME.yaml, or overwrite it with --force."
        )
    with atomic_path(ACTIVE) as temporary:
        temporary.write_bytes(path.read_bytes())
    screen.print(f"{experiment.name} is the active experiment. Run it with: dvc repro")


def _config_path(name: str) -> Path:
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"
    if not path.exists():
        raise ConfigError(unknown_name("config", name, [p.stem for p in CONFIGS.glob("*.yaml")]))
    return path


def _is_a_config(path: Path) -> bool:
    content = path.read_bytes()
    return any(other.read_bytes() == content for other in CONFIGS.glob("*.yaml"))


def _summary(path: Path) -> list[str]:
    """Return a config's row of the list, from what its sections and its comments say."""
    data = read_yaml(path)
    try:
        source, size = data["dataset"]["source"]["kind"], data["dataset"]["image"]["size"]
        teachers = [feature["model"] for feature in data["features"].values() if "model" in feature]
        student = data["student"]["architecture"]
        given = " given" if data["student"].get("weights") else ""
    except (KeyError, TypeError, AttributeError):
        return [path.stem, "incomplete", "", "", ""]
    text = path.read_text(encoding="utf-8")
    cost = re.search(r"^# Cost: (.+) \((?:estimate|measured)\)$", text, re.MULTILINE)
    return [
        path.stem,
        f"{source} {size} px",
        ", ".join(teachers) or "none",
        f"{student}{given}",
        cost[1].replace("minutes", "min") if cost else "unknown: mvmr plan",
    ]
