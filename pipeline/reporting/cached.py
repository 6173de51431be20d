"""What was computed once and stored: its size, what storing it costs, and what it saves."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.base.timing import saved_seconds
from pipeline.reporting.run_facts import Cached, Run
from pipeline.reporting.sample import Absent

RAW_BYTES = 4  # of a number as it is computed, float32


@dataclass(frozen=True)
class Saving:
    """One feature's row.

    `raw_bytes` is what its images would take unreduced, in float32. `saved_seconds` is what
    computing it anew in every epoch after the first would have taken; None where training does
    not read it, or its extraction was not measured here.
    """

    feature: Cached
    raw_bytes: int
    saved_seconds: float | None

    @property
    def smaller(self) -> float:
        """How many times less space an image takes than unreduced."""
        return RAW_BYTES * self.feature.original_width / self.feature.bytes_per_image


@dataclass(frozen=True)
class Cache:
    """All stored features of a run. `target_images` are those that an epoch looks at.

    `trained_on` names the features that training reads; only those are saved from being
    computed again. `left_out` images could not be decoded: they have rows that nobody reads.
    """

    savings: tuple[Saving, ...]
    target_images: int
    epochs: int | None
    trained_on: tuple[str, ...]
    left_out: int

    @property
    def basis_bytes(self) -> int:
        """How much of the size is no image's: what maps representations to stored numbers."""
        return sum(saving.feature.basis_bytes for saving in self.savings)

    @property
    def bytes(self) -> int:
        """Size of the stored features."""
        return sum(saving.feature.bytes for saving in self.savings)

    @property
    def raw_bytes(self) -> int:
        """Size of the same, unreduced, in float32."""
        return sum(saving.raw_bytes for saving in self.savings)

    @property
    def dcor_error(self) -> float:
        """The largest error of dCor that storing costs."""
        return max(saving.feature.dcor_error for saving in self.savings)

    @property
    def saved_seconds(self) -> float | None:
        """The sum of what each feature saved; None if nothing was measured."""
        known = [s.saved_seconds for s in self.savings if s.saved_seconds is not None]
        return sum(known) if known else None


def cache(run: Run) -> Cache | Absent:
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
    )


def trained_on(run: Run) -> Sequence[str]:
    """Return the features that the objective names."""
    named = {term.get("representation") for term in run.objective.values()}
    return [feature.name for feature in run.cached if feature.name in named]


def _saving(feature: Cached, images: int, epochs: int | None) -> Saving:
    speed = feature.images_per_second
    saved = None
    if speed is not None and epochs is not None:
        saved = saved_seconds(images, epochs=epochs, images_per_second=speed)
    return Saving(feature, RAW_BYTES * feature.original_width * feature.images, saved)
