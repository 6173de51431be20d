"""The result of a command, and its rendering: tables for people, JSON for programs."""

import json
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from pipeline.base.text import counted, counted_kinds
from pipeline.datasets.source import Unlisted
from stages.terminal import proposal
from stages.terminal.console import table

SHOWN_LEFT_OUT = 5  # images; JSON has all that are known


@dataclass(frozen=True)
class Result:
    """The outcome of a command.

    `values` is what `--json` prints: stable keys, plain numbers. `shown` are tables and lines made
    from the same values; `following` is the command to run next, as it is typed for params.yaml,
    and `afterwards` one to run after it. A check that found something wrong is not `ok`: the
    command ends with exit code 1.
    """

    values: Mapping[str, Any]
    shown: Sequence[RenderableType] = ()
    following: Sequence[str] = ()
    ok: bool = True
    afterwards: Sequence[str] = ()

    def next_command(self) -> str | None:
        """Return the next command, or None if there is none or DVC runs the stages."""
        if not self.following or "DVC_STAGE" in os.environ:
            return None
        return shlex.join(proposal.command(self.following))

    def document(self, command: str, told: Mapping[str, Any]) -> str:
        """Return the JSON document, with what was `told` at the start; NaN and inf are null."""
        begun = {"ok": self.ok, "command": command, **told}
        content = {**begun, **self.values, "next": self.next_command()}
        if self.afterwards:
            content["then"] = shlex.join(self.afterwards)
        return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class Column:
    """How a table shows the value `key` of each row."""

    key: str
    head: str
    show: Callable[[Any], str] = str


def rows_table(
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Mapping[str, Any]],
    *,
    text_columns: int = 1,
) -> Table:
    """Return a table of rows that have the keys of JSON; a missing value is blank."""
    cells = [
        ["" if row.get(c.key) is None else c.show(row[c.key]) for c in columns] for row in rows
    ]
    return table(title, [column.head for column in columns], cells, text_columns=text_columns)


def left_out_lines(left_out: Mapping[str, str], images: int, *, count: int = 0) -> list[str]:
    """Say how many of the images were left out, and the first few with the reason.

    `count` is their number if `left_out` holds only some of them.
    """
    count = count or len(left_out)
    if not count:
        return []
    lines = [f"{count} of {images} images cannot be read and are left out:"]
    named = [f"  {name}: {why}" for name, why in islice(left_out.items(), SHOWN_LEFT_OUT)]
    more = [f"  and {count - len(named)} more"] if count > len(named) else []
    return [*lines, *named, *more]


def unlisted_lines(unlisted: Unlisted) -> list[str]:
    """Say what is there besides the images, and what to do if it should be among them."""
    lines = []
    if unlisted.others:
        lines.append(
            f"Files not recognised as images: {counted_kinds(unlisted.others)}. Convert those that "
            "are images to JPEG or PNG first."
        )
    if unlisted.copies:
        kinds = ", ".join(f"{number:,} in {name}" for name, number in unlisted.copies.items())
        lines.append(f"Images in folders of copies, which are left out: {kinds}.")
    if unlisted.closed:
        named = [f"{folder} ({why})" for folder, why in unlisted.closed.items()]
        lines.append(f"{counted(len(named), 'folders')} cannot be listed: {_first(named)}.")
    if unlisted.empty:
        count = counted(len(unlisted.empty), "folders")
        lines.append(f"{count} without an image: no class ({_first(unlisted.empty)}).")
    return lines


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_LEFT_OUT]) + (", ..." if len(names) > SHOWN_LEFT_OUT else "")


def megabytes(size: float) -> str:
    """Return bytes as megabytes."""
    return f"{size / 1e6:,.1f}"


def everyday_time(seconds: float) -> str:
    """Return a duration in the largest unit that it fills."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def count(number: int) -> str:
    """Return a whole number with separated thousands."""
    return f"{number:,}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
