"""What was computed once and stored: its size, what storing it costs, and what it saves."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.reporting.run import Cached, Run
from pipeline.reporting.sample import Absent

RAW_BYTES = 4  # of a number as it is computed, float32


@dataclass(frozen=True)
class Saving:
    """One feature's row. Seconds are None where its extraction was not measured here.

    `raw_bytes` is what its images would take unreduced, in float32. `spent_seconds` is what
    computing it for the images of training and validation takes once, `saved_seconds` what it
    would take again in every further epoch of this run.
    """

    feature: Cached
    raw_bytes: int
    spent_seconds: float | None
    saved_seconds: float | None

    @property
    def smaller(self) -> float:
        """How many times less space an image takes than unreduced."""
        return RAW_BYTES * self.feature.original_width / self.feature.bytes_per_image


@dataclass(frozen=True)
class Cache:
    """All stored features of a run. `target_images` are those that an epoch looks at.

    `trained_on` names the features that training reads; only those are saved from being
    computed again.
    """

    savings: tuple[Saving, ...]
    target_images: int
    epochs: int | None
    trained_on: tuple[str, ...]

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
        """Seconds of extraction that this run did not repeat; None if nothing was measured."""
        known = [s.saved_seconds for s in self.savings if s.saved_seconds is not None]
        return sum(known) if known else None


def cache(run: Run) -> Cache | Absent:
    """Return what the run's stored features cost and save."""
    if not run.cached:
        return Absent("this experiment stores no features")
    seen = [run.splits[split] for split in ("train", "validation") if split in run.splits]
    images = sum(split.images - split.invalid for split in seen)
    read = _trained_on(run)
    epochs = run.epochs if run.epochs is not None else None
    return Cache(
        savings=tuple(_saving(f, images, epochs if f.name in read else None) for f in run.cached),
        target_images=images,
        epochs=epochs,
        trained_on=tuple(read),
    )


def _trained_on(run: Run) -> Sequence[str]:
    """Return the features that the objective names."""
    if run.config["train"] is None or run.config["objective"] is None:
        return ()
    terms = run.config["objective"].items()
    named = {term.get("representation") or name for name, term in terms}
    return [feature.name for feature in run.cached if feature.name in named]


def _saving(feature: Cached, images: int, epochs: int | None) -> Saving:
    spent = images / feature.images_per_second if feature.images_per_second else None
    repeated = None if spent is None or epochs is None else spent * (epochs - 1)
    raw = RAW_BYTES * feature.original_width * feature.images
    return Saving(feature, raw, spent, repeated)
