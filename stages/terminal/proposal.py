"""Commands that messages propose, adapted to the experiment of the running command.

Messages name a command in backticks, as it is typed for params.yaml: `mvmr train`. Before a
message is printed, this module adds the experiment file, the overrides and the data folder that
the running command was given, as far as the proposed command takes them.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

CONFIG, DATA = Path("params.yaml"), "data"  # the defaults of the commands
WHOLE = {"embed", "--checkpoint"}  # the words of a command that needs no experiment

_MVMR = re.compile(r"`(mvmr [^`]+)`")
# Text for users of DVC, which knows only params.yaml.
_DVC = re.compile(r" \(under DVC: [^)]*\)|`dvc repro[^`]*`, or ")

_program: click.Command | None = None
_chosen: dict[str, list[str]] = {}


def remember(program: click.Command, options: Mapping[str, Any]) -> None:
    """Keep the options of the running command; `program` tells what other commands take."""
    global _program
    _program = program
    _chosen.clear()
    _chosen.update((name, words) for name, words in _choices(options) if words)


def _choices(options: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    config, data = options.get("config", CONFIG), options.get("data", DATA)
    yield "config", [] if config == CONFIG else ["-c", str(config)]
    yield "assignments", [w for value in options.get("assignments", ()) for w in ("-s", value)]
    yield "data", [] if data == os.environ.get("MVMR_DATA", DATA) else ["--data", data]


def forget() -> None:
    """Forget the options of an earlier command."""
    _chosen.clear()


def is_of_params() -> bool:
    """Whether the running command, like DVC, acts on params.yaml without changes."""
    return not _chosen


def command(words: Sequence[str]) -> list[str]:
    """Return a command with the options that select the experiment and data of this one."""
    taken = {} if WHOLE.issubset(words) else _options_of(words)
    added = [
        word
        for name, chosen in _chosen.items()
        if name in taken and not taken[name].intersection(words)
        for word in chosen
    ]
    return [*words, *added]


def sentence(text: str) -> str:
    """Return a text with these options added to its commands in backticks."""
    if not is_of_params():
        text = _DVC.sub("", text)
    return _MVMR.sub(lambda found: f"`{_line(found[1])}`", text)


def remedy(text: str) -> str:
    """Return a remedy with these options; it is one command, or a text that names some."""
    return _line(text) if text.startswith("mvmr ") else sentence(text)


def _line(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError:  # not a command after all
        return text
    added = command(words)[len(words) :]
    return f"{text} {shlex.join(added)}" if added else text


def _options_of(words: Iterable[str]) -> dict[str, set[str]]:
    """Return the options that a command line can take, as a map from names to spellings."""
    found = _program
    for word in list(words)[1:]:
        if not isinstance(found, click.Group) or word not in found.commands:
            break
        found = found.commands[word]
    return {p.name: {*p.opts} for p in found.params if p.name} if found is not None else {}
