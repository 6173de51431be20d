"""Shell completion of names: configs, entries of the experiment's sections, runs.

No slow library is imported here, and a file that cannot be read yields no names.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from stages.experiment.shipped import known_configs

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def configs(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the configs."""
    return _matching(incomplete, known_configs())


def runs(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of finished runs."""
    return _matching(incomplete, (path.parent.name for path in Path("runs").glob("*/curves.csv")))


def checkpoints(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the best checkpoints of finished runs, or any file if none matches."""
    found = (str(path) for path in Path("runs").glob("*/checkpoints/best.pt"))
    items = [CompletionItem(name) for name in _matching(incomplete, found)]
    return items or [CompletionItem(incomplete, type="file")]


def names_of_section(section: str) -> Complete:
    """Return a function that completes the names in a section of the experiment file."""

    def complete(context: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
        path = Path(context.params.get("config") or "params.yaml")
        return _matching(incomplete, _section(path, section))

    return complete


def _section(path: Path, section: str) -> list[str]:
    names = _read(path).get(section)
    return [str(name) for name in names] if isinstance(names, dict) else []


def _read(path: Path) -> dict[Any, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _matching(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
