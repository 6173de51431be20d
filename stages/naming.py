"""What is misspelt in an experiment file, and where a mistake comes from; neither needs torch.

An experiment's options are declared beside the code that uses them, which takes seconds to
import. So the names that they allow are kept as one small file among Python's own cached
bytecode, known by the source files that it was made from: a key, a kind or a value that does not
exist is then refused at once. Where there is no such file yet, `stages.experiment.load` refuses
it, seconds later.
"""

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.util import cache_from_source
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic import __version__ as pydantic_version

from pipeline.config import Names, members, override
from pipeline.errors import ConfigError, unknown_name

ROOT = Path(__file__).parents[1]
KIND = "kind"

# Representations that are computed for every batch when the objective names them and the store
# does not hold them: they cost nothing, or are random.
LIVE = ("pixels", "augmented")

# What an annotation allows: {"keys": {name: below}}, {"each": below}, {"kinds": {kind: below}},
# {"what": ..., "values": [...], "prefixes": [...]}; {} is anything.
Outline = dict[str, Any]


def misspelt(data: Any, outline: Outline, path: str = "", name: str = "") -> Iterator[str]:
    """Yield one line for each key, kind and value that does not exist.

    `name` is that of the entry, which stands for its kind where none is given.
    """
    if "values" in outline and isinstance(data, str):
        beginnings = tuple(outline["prefixes"])
        if data not in (*outline["values"], "none") and not data.startswith(beginnings):
            yield f"{path}: {unknown_name(outline['what'], data, outline['values'])}"
    if not isinstance(data, Mapping):
        return
    if "kinds" in outline:
        kind = data.get(KIND, name)
        if not isinstance(kind, str) or kind not in outline["kinds"]:
            if kind:
                yield f"{path}.{KIND}: {unknown_name('kind', str(kind), outline['kinds'])}"
            return
        outline = outline["kinds"][kind]
    for key, value in data.items():
        below = f"{path}.{key}" if path else str(key)
        if "each" in outline:
            yield from misspelt(value, outline["each"], below, str(key))
        elif "keys" in outline and key in outline["keys"]:
            yield from misspelt(value, outline["keys"][key], below)
        elif "keys" in outline:
            yield f"{below}: {unknown_name('key', str(key), outline['keys'])}"


def outline_of(annotation: Any, metadata: Sequence[Any] = ()) -> Outline:
    """Return the names that an annotation of an option allows, as plain JSON values."""
    for names in metadata:
        if isinstance(names, Names):
            return asdict(names)
    found = [member for member in members(annotation) if member is not NoneType]
    models = [m for m in found if isinstance(m, type) and issubclass(m, BaseModel)]
    kinds = {kind: _keys(model) for model in models for kind in _kinds(model)}
    if len(found) > 1:
        return {"kinds": kinds} if len(kinds) == len(found) else {}
    if models:
        return _keys(models[0])
    if not found:
        return {}
    if get_origin(found[0]) is Literal:
        return asdict(Names("value", get_args(found[0])))
    if get_origin(found[0]) in (dict, Mapping):
        return {"each": outline_of(get_args(found[0])[1])}
    return {}


def _kinds(model: type[BaseModel]) -> list[str]:
    field = model.model_fields.get(KIND)
    return [str(kind) for kind in get_args(field.annotation)] if field is not None else []


def _keys(model: type[BaseModel]) -> Outline:
    fields = model.model_fields.items()
    return {"keys": {n: outline_of(field.annotation, field.metadata) for n, field in fields}}


def remember(model: type[BaseModel]) -> None:
    """Keep the names that an experiment allows, unless that is done or cannot be."""
    if sys.dont_write_bytecode or _remembered() is not None:
        return
    from pipeline.runtime import atomic_path

    content = {"made_from": _sources(), "outline": outline_of(model)}
    with suppress(OSError), atomic_path(_file()) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def misnamed(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong between sections, as far as they can be read."""
    features, objective = data.get("features"), data.get("objective")
    if not isinstance(features, Mapping) or not isinstance(objective, Mapping):
        return
    for name, term in objective.items():
        if not isinstance(term, Mapping) or term.get("kind", name) not in (
            "dependence",
            "regression",
        ):
            continue
        representation = term.get("representation", name)
        if representation not in features and representation not in LIVE:
            yield (
                f"objective.{name}: "
                f"{unknown_name('representation', str(representation), [*features, *LIVE])} "
                "A representation is named under `features`, or is one of those computed live."
            )


def complaint(
    path: Path, lines: Sequence[str], own: Sequence[str], assignments: Sequence[str]
) -> ConfigError:
    """Return the error that lists problems, each beginning with its dotted path.

    Those that are not the file's `own` come from `assignments`, and name the one.
    """
    foreign = [line for line in lines if line not in own]
    named = [f"{_options_for(x, assignments)}: {x}" if x in foreign else x for x in lines]
    if len(lines) == 1:
        return ConfigError(named[0] if foreign else f"{path}: {named[0]}")
    who = f"{path} has" if not foreign else f"{path} and the options have"
    who = "The options have" if len(foreign) == len(lines) else who
    return ConfigError("\n  ".join([f"{who} {len(lines)} problems:", *named]))


def _options_for(line: str, assignments: Sequence[str]) -> str:
    """Return the overrides that a problem is about, or all where that cannot be told."""
    where = line.partition(":")[0].split(".")

    def concerns(assignment: str) -> bool:
        key = assignment.partition("=")[0].split(".")
        shared = min(len(key), len(where))
        return key[:shared] == where[:shared]

    about = [a for a in assignments if concerns(a)] or assignments
    return " ".join(f"-s {shlex.quote(assignment)}" for assignment in about)


def refuse_misspelt(path: Path, data: dict[str, Any], assignments: Sequence[str]) -> None:
    """Raise ConfigError for names that do not exist, as far as they are known.

    `data` is the content of the file at `path`, to which the assignments are still to be applied.
    """
    outline = _remembered()
    if outline is None:
        return
    changed, own = (
        [*misspelt(content, outline), *misnamed(content)]
        for content in (override(data, assignments), data)
    )
    if changed:
        raise complaint(path, changed, own, assignments)


def _remembered() -> Outline | None:
    try:
        content = json.loads(_file().read_text(encoding="utf-8"))
        outline: Outline = content["outline"]
        return outline if content["made_from"] == _sources() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file() -> Path:
    return Path(cache_from_source(str(ROOT / "stages" / "experiment.py"))).with_suffix(".json")


def _sources() -> list[Any]:
    """Return what the outline depends on: every source file by its size and time."""
    files = [*sorted((ROOT / "pipeline").rglob("*.py")), *sorted((ROOT / "stages").glob("*.py"))]
    stats = [(str(f.relative_to(ROOT)), f.stat()) for f in files]
    return [pydantic_version, *([name, s.st_size, s.st_mtime_ns] for name, s in stats)]
