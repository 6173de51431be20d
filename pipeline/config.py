"""Reading an experiment file: safe YAML 1.2, `-s key=value` overrides, strict models.

Each part of the pipeline declares its options as a subclass of `Options` beside the code that
uses them; `stages/experiment.py` puts them together into one file's schema. This module holds
what they share: the base model, the reader, the digest, and errors with dotted paths.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class Names:
    """The names that a text may be, or begin with, where a Literal cannot say it.

    Stands in the annotation of an option, for those who look at names before anything is loaded.
    """

    what: str
    values: tuple[str, ...]
    prefixes: tuple[str, ...] = ()

    def check(self, name: str) -> str:
        """Return a valid name, or raise ValueError with the nearest one."""
        if name in self.values or name.startswith(self.prefixes):
            return name
        raise ValueError(unknown_name(self.what, name, self.values))


class Options(BaseModel):
    """Base of every section: unknown keys and wrong types are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML 1.2 mapping (`1e-4` is a number), or raise ConfigError naming the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"There is no experiment file {str(path.absolute())!r}. In the root of the project "
            "choose one with `mvmr use NAME`, or name a file with --config."
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
    """Raise ConfigError for a key like `a:1` without a value, as YAML reads what has no space."""
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


def digest(value: object) -> str:
    """Return the SHA-256 (hex) of a JSON value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line per validation error: dotted path, what is wrong, and the nearest valid key."""
    return [_problem(item, model) for item in error.errors(include_url=False)]


def _problem(item: ErrorDetails, model: type[BaseModel]) -> str:
    path, owner = _locate(item["loc"], model)
    kind = item["type"]
    if kind == "extra_forbidden":
        fields = owner.model_fields if owner else {}
        return f"{path}: {unknown_name('key', str(item['loc'][-1]), fields)}"
    if kind == "missing":
        return f"{path}: this key is required."
    if kind == "union_tag_not_found":
        return f"{path}.kind: this key is required."
    if kind == "union_tag_invalid" and "ctx" in item:
        valid = [name.strip(" '") for name in item["ctx"]["expected_tags"].split(",")]
        return f"{path}.kind: {unknown_name('kind', item['ctx']['tag'], valid)}"
    if kind == "literal_error" and isinstance(item["input"], str):
        valid = re.findall(r"'([^']*)'", item["ctx"]["expected"])
        return f"{path}: {unknown_name('value', item['input'], valid)}"
    message = item["msg"].removeprefix("Value error, ")
    if message.endswith((".", "?")):  # a whole sentence, which says what was found
        return f"{path}: {message}"
    if kind == "value_error" and isinstance(item["input"], Mapping):  # keys that do not go together
        return f"{path}: {message}."
    return f"{path}: {message}; found {item['input']!r}."


def _locate(loc: Sequence[str | int], model: type[BaseModel]) -> tuple[str, type[BaseModel] | None]:
    """Return the dotted path of `loc` without union tags, and the model that owns its last key."""
    path: list[str] = []
    annotation: Any = model
    owner: type[BaseModel] | None = None
    for part in loc:
        candidates = list(members(annotation))
        tagged = [c for c in candidates if _tag(c) == part]
        if tagged:
            annotation = tagged[0]
            owner = tagged[0]
            continue
        path.append(str(part))
        annotation, owner = _child(candidates, part)
    return ".".join(path), owner


def _child(candidates: Sequence[Any], part: str | int) -> tuple[Any, type[BaseModel] | None]:
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            field = candidate.model_fields.get(str(part))
            return (field.annotation if field else None), candidate
        if get_origin(candidate) in (dict, Mapping):
            return get_args(candidate)[1], None
        if get_origin(candidate) in (list, tuple):
            return get_args(candidate)[0], None
    return None, None


def members(annotation: Any) -> Iterator[Any]:
    """Yield the alternatives of an annotation, through Annotated and unions."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from members(member)
    elif annotation is not None:
        yield annotation


def _tag(candidate: Any) -> str | None:
    if isinstance(candidate, type) and issubclass(candidate, BaseModel):
        kind = candidate.model_fields.get("kind")
        if kind is not None and get_args(kind.annotation):
            return str(get_args(kind.annotation)[0])
    return None
