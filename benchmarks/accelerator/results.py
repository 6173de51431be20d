"""The findings, in one JSON file that is rewritten after every finding."""

import json
import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.base.atomic import write_json

DIGITS = 4
SECTIONS = "sections"


@dataclass(frozen=True)
class Options:
    """What a section needs to know: its device, its size, its time, and where the data are.

    `until` is the Unix time by which everything ends.
    """

    device: torch.device
    tiny: bool
    work: Path
    until: float
    images: Path | None = None
    teacher: Path | None = None
    photographs: Path | None = None
    epochs: int | None = None

    @property
    def seconds_left(self) -> float:
        """Seconds until everything ends."""
        return self.until - time.time()


class Results:
    """The findings of one section."""

    def __init__(self, path: Path, section: str) -> None:
        self._path = path
        self._section = section

    def add(self, name: str, value: Any) -> None:
        """Write a finding."""
        value = plain(value)
        content = read(self._path)
        content.setdefault(SECTIONS, {}).setdefault(self._section, {})[name] = value
        write_json(self._path, content)
        print(f"{self._section}: {name}: {json.dumps(value, ensure_ascii=False)}", flush=True)

    def attempt(self, name: str, work: Callable[[], Any]) -> None:
        """Write the result of `work`, or its error, so that other work still runs."""
        try:
            value = work()
        except Exception as error:  # anything may fail on an untested device
            value = failure(error)
        self.add(name, value)


def failure(error: Exception) -> dict[str, Any]:
    """Return an error and where it was raised, the innermost place last."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    where = [f"{frame.filename}:{frame.lineno}" for frame in frames]
    return {"error": f"{type(error).__name__}: {error}"[:2000], "where": where}


def read(path: Path) -> dict[str, Any]:
    """Return the content of a file of results; empty if there is no file."""
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def plain(value: Any) -> Any:
    """Return a value for JSON: rounded, with infinity and NaN as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, bool | int) else str(value)
