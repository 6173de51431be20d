"""How fast work goes: what it takes a tar, and what it takes an image, from when each was done."""

import time
from dataclasses import dataclass

from pipeline.base.progress import Progress, Silent


class Stopwatch:
    """A Progress that remembers when each phase began and each unit of it was done.

    What it is told goes on to `watched`, but for the lines that stay.
    """

    def __init__(self, watched: Progress | None = None) -> None:
        self.phases: dict[str, Phase] = {}
        self._current = Phase(0)
        self._watched = watched or Silent()

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin a phase."""
        self._current = self.phases[what] = Phase(total)
        self._watched.start(f"try: {what}", total, unit)

    def advance(self, count: int, status: str = "") -> None:
        """Note the time."""
        if count:
            self._current.times.append(time.perf_counter())
            self._current.counts.append(count)
        self._watched.advance(count, status)

    def note(self, text: str) -> None:
        """Do nothing."""


class Phase:
    """When a phase of so many units began, and when each unit of how many images was done."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.began = time.perf_counter()
        self.times: list[float] = []
        self.counts: list[int] = []

    def piece(self, first: int = 0, last: int | None = None) -> "Piece":
        """Return what was done from tar `first` to `last` (excluded)."""
        last = len(self.times) if last is None else last
        began = self.times[first - 1] if first else self.began
        seconds = self.times[last - 1] - began if last > first else 0.0
        return Piece(max(0, last - first), sum(self.counts[first:last]), seconds)


@dataclass(frozen=True)
class Piece:
    """So many tars with so many images took so long."""

    shards: int
    images: int
    seconds: float

    def __add__(self, other: "Piece") -> "Piece":
        return Piece(
            self.shards + other.shards, self.images + other.images, self.seconds + other.seconds
        )


@dataclass(frozen=True)
class Pace:
    """Seconds that a tar takes whatever is in it, and seconds an image."""

    per_shard: float
    per_image: float

    @classmethod
    def of(cls, large: Piece, small: Piece) -> "Pace":
        """Tell the two apart by pieces of larger and of smaller tars.

        Where they do not tell them apart, all is counted by images: a plan had better be long.
        """
        determinant = large.shards * small.images - small.shards * large.images
        both = large + small
        all_by_images = cls(0.0, max(both.seconds, 1e-9) / max(1, both.images))
        if not determinant:
            return all_by_images
        a = (large.seconds * small.images - small.seconds * large.images) / determinant
        b = (large.shards * small.seconds - small.shards * large.seconds) / determinant
        return cls(a, b) if a >= 0 and b > 0 else all_by_images

    def seconds(self, shards: int, images: int) -> float:
        """Return the time that so many images in so many tars take."""
        return shards * self.per_shard + images * self.per_image
