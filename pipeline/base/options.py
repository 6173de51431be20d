"""The base of every section of an experiment file, and validation errors as dotted paths.

Each part of the pipeline declares its options as a subclass of `Options` beside the code that
uses them; `stages/experiment/schema.py` puts them together into one file's schema.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from pipeline.base.errors import ConfigError, unknown_name


class Options(BaseModel):
    """Base of every section: unknown keys and wrong types are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


def added(default: Any) -> Any:
    """Return the default of an option that earlier versions did not have.

    It is written into records only if it has another value, so that experiments of earlier
    versions keep their digests.
    """
    return Field(default=default, exclude_if=lambda value: bool(value == default))


def checked_by(annotation: Any, value: Any, name: str) -> Any:
    """Return a section's value, checked by its type; `name` is that of the section.

    Raises ConfigError that lists every problem with its dotted path.
    """
    fields: dict[str, Any] = {name: (annotation, ...)}
    model = create_model("Section", __base__=Options, **fields)
    try:
        return getattr(model.model_validate({name: value}), name)
    except ValidationError as error:
        raise ConfigError("\n  ".join(problems(error, model))) from error


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line per validation error: dotted path, what is wrong, nearest valid key."""
    return [_problem(item, model) for item in error.errors(include_url=False)]


def _problem(item: ErrorDetails, model: type[BaseModel]) -> str:
    path, owner = _locate(item["loc"], model)
    kind = item["type"]
    if kind == "extra_forbidden":
        fields = owner.model_fields.items() if owner else ()
        names = [field.alias or name for name, field in fields]
        return f"{path}: {unknown_name('key', str(item['loc'][-1]), names)}"
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
    if kind == "value_error" and isinstance(item["input"], Mapping):  # conflicting keys
        return f"{path}: {message}."
    return f"{path}: {_in_plain_words(message)}; found {item['input']!r}."


def _in_plain_words(message: str) -> str:
    """Return a message without words of the validating library's own."""
    return message.replace("a valid tuple", "a list").replace(
        "Tuple should have at least 1 item after validation, not 0", "no item is valid"
    )


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
