"""Reading one experiment file: safe YAML 1.2, with `-s key=value` overrides."""

from collections.abc import Sequence
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.base.errors import ConfigError


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML 1.2 mapping (`1e-4` is a number), or raise ConfigError naming the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"There is no experiment file {str(path.absolute())!r}. Change to the root of the "
            "project, set one up with `mvmr init`, or name a file with --config."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The experiment file {str(path)!r} cannot be read: {error}.") from error
    try:
        data = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        place = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {place}.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping of sections; found {type(data).__name__}.")
    _require_spaces(data, str(path))
    return data


def override(data: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return `data` with each `dotted.key=value` applied; the value is read as YAML."""
    result = deepcopy(data)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"An override is written key.subkey=value; found {assignment!r}.")
        *parents, last = key.split(".")
        node = result
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise ConfigError(f"Cannot set {key!r}: {parent!r} is a value, not a section.")
        try:
            node[last] = YAML(typ="safe", pure=True).load(StringIO(text))
        except YAMLError as error:
            raise ConfigError(f"The value in {assignment!r} is not valid YAML.") from error
        _require_spaces(node[last], repr(assignment))
    return result


def _require_spaces(value: object, where: str) -> None:
    """Raise ConfigError for a key like `a:1` without a value: the colon lacks a space."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if inner is None and isinstance(key, str) and ":" in key:
                apart = key.replace(":", ": ", 1)
                raise ConfigError(
                    f"{where}: {key!r} has no value; write a space after the colon, {{{apart}}}."
                )
            _require_spaces(inner, where)
    elif isinstance(value, list):
        for inner in value:
            _require_spaces(inner, where)
