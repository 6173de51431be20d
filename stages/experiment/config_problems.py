"""Problems across sections of an experiment file, and the error that lists all problems."""

import shlex
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.base.errors import ConfigError, unknown_name
from pipeline.objective.terms import (
    WITH_REPRESENTATION,
    AnyTerm,
    reads_ahead,
    with_representation,
)

# Representations that are cheap or random. If the objective names one that the store does not
# hold, it is computed for every batch.
LIVE = ("pixels", "augmented")


def unknown_representations(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line for each readable term whose representation does not exist."""
    features, objective = data.get("features"), data.get("objective")
    if not isinstance(features, Mapping) or not isinstance(objective, Mapping):
        return
    for name, term in objective.items():
        if not isinstance(term, Mapping):
            continue
        if term.get("kind", name) not in WITH_REPRESENTATION and not term.get("representation"):
            continue
        representation = term.get("representation", name)
        if representation not in features and representation not in LIVE:
            yield (
                f"objective.{name}: "
                f"{unknown_name('representation', str(representation), [*features, *LIVE])} "
                "A representation is named under `features`, or is one of those computed live."
            )


def unstored_targets(terms: Mapping[str, AnyTerm], features: Container[str]) -> Iterator[str]:
    """Yield one line for each term that must know stored targets before training and cannot."""
    for name, term in with_representation(terms):
        if reads_ahead(term) and term.representation not in features:
            yield (
                f"objective.{name}: {reads_ahead(term)} needs stored targets of training images; "
                f"name {term.representation!r} under `features`."
            )


def complaint(
    path: Path, lines: Sequence[str], own: Sequence[str], assignments: Sequence[str]
) -> ConfigError:
    """Return the error that lists problems, each beginning with its dotted path.

    `own` are the problems of the file alone. The others come from `assignments`, which are named.
    """
    foreign = [line for line in lines if line not in own]
    named = [f"{_options_for(x, assignments)}: {x}" if x in foreign else x for x in lines]
    if len(lines) == 1:
        return ConfigError(named[0] if foreign else f"{path}: {named[0]}")
    who = f"{path} has" if not foreign else f"{path} and the options have"
    who = "The options have" if len(foreign) == len(lines) else who
    return ConfigError("\n  ".join([f"{who} {len(lines)} problems:", *named]))


def _options_for(line: str, assignments: Sequence[str]) -> str:
    """Return the overrides that a problem is about, or all if that is unclear."""
    where = line.partition(":")[0].split(".")

    def concerns(assignment: str) -> bool:
        key = assignment.partition("=")[0].split(".")
        shared = min(len(key), len(where))
        return key[:shared] == where[:shared]

    about = [a for a in assignments if concerns(a)] or assignments
    return " ".join(f"-s {shlex.quote(assignment)}" for assignment in about)
