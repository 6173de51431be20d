"""Recording how long each piece of work took, in a file beside its result.

A record is a small JSON file whose name contains the digest of the result, so a result that is
restored later still has its record. Records are not outputs of any stage: two runs of the same
work take different times, which must not make anything stale.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from pipeline.base.atomic import write_json
from pipeline.base.devices import available_cores, gpu_name
from pipeline.base.locations import Location
from pipeline.base.progress import Progress, Step, foresee

DIGITS = 16  # of a digest, in a record's name


@dataclass(frozen=True)
class Phase:
    """One phase of a piece of work: `done` units, and the seconds that they took."""

    what: str
    unit: str
    done: int
    seconds: float
    step: Step | None = None


@dataclass(frozen=True)
class Attempt:
    """One call: when it began (Unix time), its wall-clock seconds, and whether it was finished.

    `gpu` is the name of the GPU, empty if there was none.
    """

    began: float
    seconds: float
    finished: bool
    phases: tuple[Phase, ...]
    cores: int
    gpu: str

    def shared(self, pieces: int) -> "Attempt":
        """Return the attempt as one of several pieces of work that were done together."""
        phases = tuple(replace(p, seconds=p.seconds / max(1, pieces)) for p in self.phases)
        return replace(self, seconds=self.seconds / max(1, pieces), phases=phases)


def record_name(work: str, digest: str) -> str:
    """Return the file name of the record of `work` whose result has this digest."""
    return f"{work}-{digest[:DIGITS]}.json"


@contextmanager
def timed(
    paths: Sequence[Location], progress: Progress, *, begun: Sequence[Location] = ()
) -> Iterator[Progress]:
    """Yield a Progress that measures time; at the end, write the attempt to each of `paths`.

    Interrupted attempts are recorded too, and the next attempt is added to them. An attempt that
    follows a finished one replaces the record. To `begun`, records of work that another call
    finishes, the attempt is written as an unfinished one. All records share the time evenly.
    """
    watch = _Stopwatch(progress)
    finished = False
    try:
        yield watch
        finished = True
    finally:
        attempt = watch.attempt(finished=finished).shared(len(paths) + len(begun))
        ended = [(path, attempt) for path in paths]
        ended += [(path, replace(attempt, finished=False)) for path in begun]
        for path, attempt in ended:
            before = read_attempts(path)
            kept = [] if before and before[-1].finished else before
            write_json(path, {"attempts": [asdict(a) for a in (*kept, attempt)]})


def read_attempts(path: Location) -> list[Attempt]:
    """Return the attempts of a record, oldest first; none if there is no readable record."""
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["attempts"]
        return [_attempt(values) for values in recorded]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def saved_seconds(images: int, *, epochs: int, images_per_second: float) -> float:
    """Return the seconds that a run saves if a representation is cached.

    Without a cache, it would be computed in every epoch; with one, it is computed once.
    """
    return images * (epochs - 1) / images_per_second


def _attempt(values: Mapping[str, Any]) -> Attempt:
    return Attempt(**{**values, "phases": tuple(map(phase_from_json, values["phases"]))})


def phase_from_json(values: Mapping[str, Any]) -> Phase:
    """Restore a phase from `asdict`; in older records, the first word of `what` is its step."""
    known = {name: values[name] for name in ("what", "unit", "done", "seconds")}
    first = values["what"].partition(" ")[0]
    return Phase(**known, step=values.get("step", first if first in get_args(Step) else None))


class _Stopwatch:
    """Passes everything on to another Progress, and measures how long each phase takes."""

    def __init__(self, watched: Progress) -> None:
        self._watched = watched
        self._phases: list[Phase] = []
        self._began = time.time()
        self._start = self._phase_start = time.perf_counter()
        self._current: tuple[str, str, Step | None] | None = None
        self._done = 0

    def start(self, what: str, total: int, unit: str, *, step: Step | None = None) -> None:
        """Begin a phase."""
        self._end_phase()
        self._current, self._done = (what, unit, step), 0
        self._phase_start = time.perf_counter()
        self._watched.start(what, total, unit, step=step)

    def advance(self, count: int, status: str = "") -> None:
        """Count units."""
        self._done += count
        self._watched.advance(count, status)

    def foresee(self, done: int) -> None:
        """Pass on what is done of pieces that are not."""
        foresee(self._watched, done, f"{done:,} computed")

    def note(self, text: str) -> None:
        """Pass a line on."""
        self._watched.note(text)

    def attempt(self, *, finished: bool) -> Attempt:
        """End the current phase and return the measurements."""
        self._end_phase()
        return Attempt(
            began=self._began,
            seconds=time.perf_counter() - self._start,
            finished=finished,
            phases=tuple(self._phases),
            cores=available_cores(),
            gpu=gpu_name(),
        )

    def _end_phase(self) -> None:
        if self._current is None:
            return
        what, unit, step = self._current
        seconds = time.perf_counter() - self._phase_start
        self._phases.append(Phase(what, unit, self._done, seconds, step))
        self._current = None
