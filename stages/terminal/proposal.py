"""Commands that a message proposes: they act on the same experiment as the one that proposes them.

A sentence anywhere in the project names a command in backticks, as it is typed for params.yaml:
`mvmr train`. On its way to the user it is given, here, the experiment file, the overrides and
the place of data that the running command was given, as far as the named one takes them.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

CONFIG, DATA = Path("params.yaml"), "data"  # what the commands take where nothing is said
INSTEAD = "--exported"  # of an experiment

_MVMR = re.compile(r"`(mvmr [^`]+)`")
# What is said for those who run by DVC, which knows params.yaml alone.
_DVC = re.compile(r" \(under DVC: [^)]*\)|`dvc repro[^`]*`, or ")

_program: click.Command | None = None
_chosen: dict[str, list[str]] = {}


def remember(program: click.Command, options: Mapping[str, Any]) -> None:
    """Keep what the running command was given; `program` knows what other commands take."""
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
    """Let nothing of an earlier command be proposed."""
    _chosen.clear()


def is_of_params() -> bool:
    """Whether the running command acts on params.yaml as it is, as DVC does."""
    return not _chosen


def command(words: Sequence[str]) -> list[str]:
    """Return a command with the options that chose the experiment and data of this one."""
    taken = {} if INSTEAD in words else _options_of(words)
    added = [
        word
        for name, chosen in _chosen.items()
        if name in taken and not taken[name].intersection(words)
        for word in chosen
    ]
    return [*words, *added]


def sentence(text: str) -> str:
    """Return a sentence whose commands, in backticks, have these options too."""
    if not is_of_params():
        text = _DVC.sub("", text)
    return _MVMR.sub(lambda found: f"`{_line(found[1])}`", text)


def remedy(text: str) -> str:
    """Return what is to be done: a command as it stands, or a sentence that names some."""
    return _line(text) if text.startswith("mvmr ") else sentence(text)


def _line(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError:  # not a command after all
        return text
    added = command(words)[len(words) :]
    return f"{text} {shlex.join(added)}" if added else text


def _options_of(words: Iterable[str]) -> dict[str, set[str]]:
    """Return the options that a command line can take: by their name, how each is written."""
    found = _program
    for word in list(words)[1:]:
        if not isinstance(found, click.Group) or word not in found.commands:
            break
        found = found.commands[word]
    return {p.name: {*p.opts} for p in found.params if p.name} if found is not None else {}
