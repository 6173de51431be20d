"""Where a run came from: its whole config, digests, versions, commands, times of the stages."""

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.base.text import counted
from pipeline.reporting.formats import count, duration, size
from pipeline.reporting.run_facts import RunFacts, Split, Work


@dataclass(frozen=True)
class Stage:
    """One stage's work: its duration, start, machine and phases."""

    name: str
    seconds: str
    when: str
    machine: str
    phases: str


@dataclass(frozen=True)
class Packed:
    """One packed split: how many images can be read, and how many were left out, with names."""

    name: str
    read: str
    labelled: str
    left_out: str
    bytes: str


@dataclass(frozen=True)
class Provenance:
    """`config` is the resolved experiment, `file` the text of the experiment file."""

    config: str
    file: str
    digests: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]
    stages: tuple[Stage, ...]
    total: str
    unknown: tuple[str, ...]
    splits: tuple[Packed, ...]


def provenance(run: RunFacts, file: str, assignments: Sequence[str]) -> Provenance:
    """Return where a run came from: `file` is its experiment file, `assignments` the overrides."""
    known = [work for work in run.work if work.attempts]
    return Provenance(
        config=json.dumps(run.config, indent=2, ensure_ascii=False),
        file=file,
        digests=tuple(_digests(run)),
        versions=tuple(run.versions.items()),
        commands=tuple(_commands(run, assignments)),
        stages=tuple(map(_stage, known)),
        total=duration(sum(work.seconds or 0 for work in known)),
        unknown=tuple(work.stage for work in run.work if not work.attempts),
        splits=tuple(_packed(name, split) for name, split in run.splits.items()),
    )


def _packed(name: str, split: Split) -> Packed:
    names = ", ".join(split.left_out)
    more = ", ..." if len(split.left_out) < split.invalid else ""
    return Packed(
        name=name,
        read=count(split.images - split.invalid),
        labelled=_labelled(split),
        left_out=f"{count(split.invalid)} ({names}{more})" if names else count(split.invalid),
        bytes=_size(split),
    )


def _size(split: Split) -> str:
    if not split.reduced:
        return size(split.bytes)
    less = f"{size(abs(split.saved))} {'less' if split.saved >= 0 else 'more'} than their files"
    return f"{size(split.bytes)}; {counted(split.reduced, 'images')} stored reduced, {less}"


def _labelled(split: Split) -> str:
    if split.labelled in (0, split.images):
        return "all" if split.labelled else "none"
    return count(split.labelled)


def _digests(run: RunFacts) -> Iterator[tuple[str, str]]:
    yield "experiment", run.digest
    yield run.student.checkpoint, run.student.sha256
    for name, split in run.splits.items():
        yield f"shards, {name}", split.digest
    for feature in run.cached:
        yield f"feature, {feature.name}", feature.digest


def _commands(run: RunFacts, assignments: Sequence[str]) -> Iterator[str]:
    overrides = "".join(f" -s {shlex.quote(assignment)}" for assignment in assignments)
    if not overrides:
        yield "dvc repro"
    names = ["shard", *(["extract-features"] if run.cached else []), "train", "evaluate", "report"]
    yield from (f"mvmr {name}{overrides}" for name in names)


def _stage(work: Work) -> Stage:
    last = work.attempts[-1]
    attempts = f" in {len(work.attempts)} attempts" if len(work.attempts) > 1 else ""
    cores = "1 core" if last.cores == 1 else f"{last.cores} cores"
    return Stage(
        name=work.stage,
        seconds=f"{duration(work.seconds or 0)}{attempts}",
        when=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(last.began)),
        machine=f"{cores}, {last.gpu}" if last.gpu else f"{cores}, no GPU",
        phases="; ".join(
            f"{phase.what}: {count(phase.done)} {phase.unit} in {duration(phase.seconds)}"
            for attempt in work.attempts
            for phase in attempt.phases
            if phase.done
        ),
    )


def flat(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return a nested config as one dict of dotted keys; lists are values."""
    result = dict[str, Any]()
    for key, value in config.items():
        below = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            result |= flat(value, below)
        else:
            result[below] = value
    return result
