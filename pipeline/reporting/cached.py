"""What was computed once and stored: its size, its cost in accuracy, and the time it saves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.base.timing import saved_seconds
from pipeline.reporting.run_facts import Cached, RunFacts
from pipeline.reporting.sample import Absent

RAW_BYTES = 4  # per number as computed, float32


@dataclass(frozen=True)
class SavedTime:
    """One feature's row.

    `raw_bytes` is its size if stored unreduced, in float32. `saved_seconds` is the time to
    recompute it in every epoch after the first; None where training does not read the feature,
    or its extraction was not measured on this machine.
    """

    feature: Cached
    raw_bytes: int
    saved_seconds: float | None

    @property
    def smaller(self) -> float:
        """How many times smaller an image's row is than the unreduced row."""
        return RAW_BYTES * self.feature.original_width / self.feature.bytes_per_image


@dataclass(frozen=True)
class WhitenedError:
    """The largest error of dCor of a feature where components are divided by a power of deviation.

    `used_by` are the terms and protocols whose geometry this is.
    """

    feature: str
    power: float
    error: float
    used_by: tuple[str, ...]


@dataclass(frozen=True)
class Cache:
    """All stored features of a run.

    `target_images` is the number of images that an epoch reads. `trained_on` names the features
    that training reads; only these save time. `left_out` is the number of images that could not
    be decoded: their rows are never read. `whitened` are the errors in the geometries in use.
    """

    savings: tuple[SavedTime, ...]
    target_images: int
    epochs: int | None
    trained_on: tuple[str, ...]
    left_out: int
    whitened: tuple[WhitenedError, ...] = ()

    @property
    def basis_bytes(self) -> int:
        """Size of what maps representations to stored numbers, which belongs to no image."""
        return sum(saving.feature.basis_bytes for saving in self.savings)

    @property
    def bytes(self) -> int:
        """Size of the stored features."""
        return sum(saving.feature.bytes for saving in self.savings)

    @property
    def raw_bytes(self) -> int:
        """Size of the same features unreduced, in float32."""
        return sum(saving.raw_bytes for saving in self.savings)

    @property
    def dcor_error(self) -> float:
        """The largest error of dCor that storing causes."""
        return max(saving.feature.dcor_error for saving in self.savings)

    @property
    def saved_seconds(self) -> float | None:
        """Seconds saved by all features together; None if nothing was measured."""
        known = [s.saved_seconds for s in self.savings if s.saved_seconds is not None]
        return sum(known) if known else None


def cache(run: RunFacts) -> Cache | Absent:
    """Return what the run's stored features cost and save."""
    if not run.cached:
        return Absent("this experiment stores no features")
    seen = [run.splits[split] for split in ("train", "validation") if split in run.splits]
    images = sum(split.images - split.invalid for split in seen)
    read = trained_on(run)
    return Cache(
        savings=tuple(
            _saving(f, images, run.epochs if f.name in read else None) for f in run.cached
        ),
        target_images=images,
        epochs=run.epochs,
        trained_on=tuple(read),
        left_out=sum(split.invalid for split in run.splits.values()),
        whitened=tuple(_whitened(run)),
    )


def _whitened(run: RunFacts) -> Iterator[WhitenedError]:
    """Yield the error of each feature in each geometry in which it is used, where known."""
    used: dict[tuple[str, Any], list[str]] = {}
    for name, term in run.objective.items():
        used.setdefault((term.get("representation", ""), term.get("whiten")), []).append(name)
    for protocol, record in run.metrics.items():
        for subject, values in record["controls"].items():
            used.setdefault((subject, values.get("whiten")), []).append(protocol)
    for feature in run.cached:
        for power, error in feature.whitened_errors.items():
            if names := used.get((feature.name, float(power))):
                yield WhitenedError(feature.name, float(power), error, tuple(names))


def trained_on(run: RunFacts) -> Sequence[str]:
    """Return the names of the stored features that the objective uses."""
    named = {term.get("representation") for term in run.objective.values()}
    return [feature.name for feature in run.cached if feature.name in named]


def _saving(feature: Cached, images: int, epochs: int | None) -> SavedTime:
    speed = feature.images_per_second
    saved = None
    if speed is not None and epochs is not None:
        saved = saved_seconds(images, epochs=epochs, images_per_second=speed)
    return SavedTime(feature, RAW_BYTES * feature.original_width * feature.images, saved)
