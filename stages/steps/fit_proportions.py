"""An experiment on photographs of one's own, in the proportions that suit them and a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from pipeline.base.errors import DataError
from pipeline.base.progress import Progress
from pipeline.base.text import counted
from pipeline.datasets.source import Item, Split
from pipeline.datasets.split import SplitOptions, cut
from pipeline.models.student import TORCHVISION_RESNETS
from pipeline.planning.proportions import (
    Extent,
    Steps,
    batch_for,
    extent_for,
    is_enough,
    largest,
    resize_for,
    sizes_for,
    steps_for,
    stored_side,
)
from pipeline.planning.survey import Survey
from pipeline.planning.trial_sample import FEWEST_IMAGES
from pipeline.representations.teachers.frozen import TeacherOptions
from stages.experiment.own_params import OwnParams
from stages.experiment.schema import Experiment, from_sections
from stages.steps.measure_costs import FEW_IMAGES, CostTrial, trial

Splits = Mapping[Split, Sequence[Item]]
FEWEST_PHOTOGRAPHS = 60
FEW_PHOTOGRAPHS, SHARE, SHARE_OF_FEW = 1000, 0.1, 0.2  # of images that are held out
MEASURED_FIRST = 96  # pixels
ANY_SIDE = 64  # pixels of an image that teachers prepare to their own size
SMALL = 48  # pixels, up to which a student keeps more of the resolution
SMALL_STEM = {"stem": "3x3/2", "maxpool": False}


@dataclass(frozen=True)
class Choice:
    """What was chosen for photographs, with its forecast."""

    size: int
    extent: Extent
    experiment: Experiment
    seconds: float


def fit_to_folder(params: OwnParams, found: Survey, name: str) -> Splits:
    """Set what follows from the folder: name, labels, splits and protocols; return the splits.

    Raises DataError if there are too few images.
    """
    if found.images < FEWEST_PHOTOGRAPHS:
        closed = "".join(
            f" {folder} cannot be listed: {why}."
            for folder, why in found.source.unlisted.closed.items()
        )
        raise DataError(
            f"{found.options.root!r} holds {counted(found.images, 'images')}.{closed} Training "
            f"needs {FEWEST_PHOTOGRAPHS} or more, of which some only choose the best epoch and "
            "score the result. Add images, or take a network as it is."
        )
    share = SHARE_OF_FEW if found.images < FEW_PHOTOGRAPHS else SHARE
    params.set_name(name)
    params.set("dataset.source", found.options.model_dump(mode="json", exclude={"classes"}))
    params.set("dataset.split.validation", 0 if "validation" in found.brought else share)
    cuts_test = found.classes and "test" not in found.brought
    params.set("dataset.split.test", share if cuts_test else 0)
    protocols = ("linear", "knn", "retrieval") if found.classes else ("retrieval",)
    params.set("evaluate", {name: {} for name in protocols})
    splits = _splits(found, from_sections(params.sections).dataset.split)
    _limit_components(params, len(splits["train"]))
    return splits


def choose(
    params: OwnParams, found: Survey, splits: Splits, *, seconds: float, progress: Progress
) -> Choice:
    """Choose the largest image that leaves time for enough steps; set size, batch and epochs.

    One size is measured, and the others told from it by their area. What is chosen is measured too.
    """
    sizes, images = sizes_for(found.side), len(splits["train"])
    first = largest(sizes, lambda size: size <= MEASURED_FIRST)
    steps = steps_for(params.sections["student"].get("weights"))
    batch = batch_for(images, min(steps.batch, params.sections["train"]["batch_size"]))
    variants = _Variants(params, found.side, batch)
    start = variants.of(first, epochs=1)
    with trial(start, found.source, splits, images=FEW_IMAGES, progress=progress) as tried:
        runs = _Runs(tried, variants, images, seconds, steps)
        size = largest(sizes, lambda size: runs.suit(size, by=first))
        while not runs.are_measured(size) and not runs.suit(size, by=size):
            smaller = [other for other in sizes if other < size]
            size = smaller[-1] if smaller else size
        extent = runs.extent(size, by=size)
        taken = runs.seconds(size, extent.epochs)
    return Choice(size, extent, variants.of(size, epochs=extent.epochs), taken)


class _Runs:
    """Runs at some sizes, with as many epochs as `seconds` allow."""

    def __init__(
        self,
        tried: CostTrial,
        variants: "_Variants",
        images: int,
        seconds: float,
        steps: Steps,
    ) -> None:
        self._tried, self._variants = tried, variants
        self._images, self._limit, self._steps = images, seconds, steps
        self._measured = dict[int, tuple[float, float]]()

    def are_measured(self, size: int) -> bool:
        """Whether runs of this size are measured already."""
        return size in self._measured

    def suit(self, size: int, *, by: int) -> bool:
        """Whether a run at a size has enough steps within the time, from what was measured."""
        extent = self.extent(size, by=by)
        return extent.fits and is_enough(extent, self._steps)

    def extent(self, size: int, *, by: int) -> Extent:
        """Return the run at a size, from what was measured at another one."""
        fixed, an_epoch = self._costs(by)
        return extent_for(
            self._images,
            self._variants.batch,
            seconds=self._limit - fixed,
            epoch_seconds=an_epoch * (size / by) ** 2,
            most=self._steps.most,
        )

    def seconds(self, size: int, epochs: int) -> float:
        """Return what a whole run takes."""
        fixed, an_epoch = self._costs(size)
        return fixed + epochs * an_epoch

    def _costs(self, size: int) -> tuple[float, float]:
        """Return the seconds of everything but epochs, and of one epoch."""
        if size not in self._measured:
            experiment = self._variants.of(size, epochs=1)
            costs = self._tried.costs(experiment)
            an_epoch = costs.training.epoch_seconds if costs.training is not None else 0.0
            whole = sum(self._tried.stage_seconds(experiment, costs).values())
            self._measured[size] = whole - an_epoch, an_epoch
        return self._measured[size]


class _Variants:
    """The experiment with other sizes of images and other numbers of epochs."""

    def __init__(self, params: OwnParams, side: int, batch: int) -> None:
        self._params, self._side, self.batch = params, side, batch
        train = params.sections["train"]
        self._warmup = train.get("schedule", {}).get("warmup_epochs", 0) / train["epochs"]
        params.set("train.batch_size", batch)
        self._teachers = _seen_by_teachers(from_sections(params.sections))

    def of(self, size: int, *, epochs: int) -> Experiment:
        """Set a size and a number of epochs; warm-up keeps its share."""
        params = self._params
        params.set("dataset.image.size", size)
        params.set("dataset.image.resize", resize_for(size, self._side))
        params.set("dataset.shards.max_side", stored_side(size, self._teachers))
        has_stem = params.sections["student"]["architecture"] in TORCHVISION_RESNETS
        for key, value in SMALL_STEM.items() if has_stem and size <= SMALL else ():
            params.set(f"student.{key}", value)
        params.set("train.epochs", epochs)
        if self._warmup:
            params.set("train.schedule.warmup_epochs", round(self._warmup * epochs, 2))
        return from_sections(params.sections)


def _seen_by_teachers(experiment: Experiment) -> int:
    """Return the largest side, in pixels, that teachers prepare images to; 0 without a teacher."""
    image = experiment.dataset.image
    teachers = (o for o in experiment.features.values() if isinstance(o, TeacherOptions))
    blank = Image.new("RGB", (ANY_SIDE, ANY_SIDE))
    networks = (options.build(image) for options in teachers)
    return max((max(network.preparation(blank).shape[1:]) for network in networks), default=0)


def _splits(found: Survey, options: SplitOptions) -> Splits:
    # The names stand in for the contents, which are not read: shares are the same.
    items = [item for split in found.source.splits.values() for item in split]
    splits = cut(found.source, options, {item.name: item.name for item in items})
    if len(splits["train"]) < FEWEST_IMAGES or "validation" not in splits:
        raise DataError(
            f"There are {counted(len(splits['train']), 'training images')} and "
            f"{len(splits.get('validation', ()))} for validation. Training needs "
            f"{FEWEST_IMAGES} or more, and at least one to choose the best epoch."
        )
    return splits


def _limit_components(params: OwnParams, images: int) -> None:
    """Let few images have no more components than they can tell apart."""
    for name, options in params.sections["features"].items():
        wanted = options.get("reduce", {}).get("pca")
        if wanted:
            possible = 2 ** (images // 2).bit_length() // 2
            params.set(f"features.{name}.reduce.pca", min(wanted, possible))
