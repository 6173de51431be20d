"""The pace of work: a time per tar and a time per image."""

import time
from dataclasses import dataclass

from pipeline.base.progress import Progress, Silent, Step


class PaceMeter:
    """A Progress that records when each unit of each phase was done.

    It passes phases and counts on to `watched`, but not notes.
    """

    def __init__(self, watched: Progress | None = None) -> None:
        self._phases: list[TimedUnits] = []
        self._watched = watched or Silent()

    def of(self, step: Step) -> "list[TimedUnits]":
        """Return the phases of one step, in order."""
        return [phase for phase in self._phases if phase.step == step]

    def start(self, what: str, total: int, unit: str, *, step: Step | None = None) -> None:
        """Begin a phase."""
        self._phases.append(TimedUnits(step))
        self._watched.start(f"measuring: {what}", total, unit, step=step)

    def advance(self, count: int, status: str = "") -> None:
        """Record the time."""
        if count:
            self._phases[-1].add(count)
        self._watched.advance(count, status)

    def note(self, text: str) -> None:
        """Do nothing."""


class TimedUnits:
    """The units of one phase: when each was done, and how many images it had."""

    def __init__(self, step: Step | None) -> None:
        self.step = step
        self.began = time.perf_counter()
        self.times: list[float] = []
        self.counts: list[int] = []

    def add(self, count: int) -> None:
        """Record that a unit of `count` images is done now."""
        self.times.append(time.perf_counter())
        self.counts.append(count)

    def piece(self, first: int = 0, last: int | None = None) -> "Piece":
        """Return the units from `first` to `last` (excluded)."""
        last = len(self.times) if last is None else last
        began = self.times[first - 1] if first else self.began
        seconds = self.times[last - 1] - began if last > first else 0.0
        return Piece(max(0, last - first), sum(self.counts[first:last]), seconds)


@dataclass(frozen=True)
class Piece:
    """Some tars, the number of images in them, and the seconds that they took."""

    shards: int
    images: int
    seconds: float

    def __add__(self, other: "Piece") -> "Piece":
        return Piece(
            self.shards + other.shards, self.images + other.images, self.seconds + other.seconds
        )


@dataclass(frozen=True)
class Pace:
    """Fixed seconds per tar, and seconds per image."""

    per_shard: float
    per_image: float

    @classmethod
    def of(cls, large: Piece, small: Piece) -> "Pace":
        """Solve for both from a piece with larger tars and a piece with smaller ones.

        If the pieces do not determine both, all of the time is counted per image. A forecast is
        then too long rather than too short.
        """
        determinant = large.shards * small.images - small.shards * large.images
        both = large + small
        all_by_images = cls(0.0, max(both.seconds, 1e-9) / max(1, both.images))
        if not determinant:
            return all_by_images
        a = (large.seconds * small.images - small.seconds * large.images) / determinant
        b = (large.shards * small.seconds - small.shards * large.seconds) / determinant
        return cls(a, b) if a >= 0 and b > 0 else all_by_images

    def times(self, factor: float) -> "Pace":
        """Return the pace at which everything takes `factor` times as long."""
        return Pace(factor * self.per_shard, factor * self.per_image)

    def seconds(self, shards: int, images: int) -> float:
        """Return the seconds that `images` images in `shards` tars take."""
        return shards * self.per_shard + images * self.per_image
