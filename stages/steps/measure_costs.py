"""What an experiment will cost, measured on a few of its images."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pipeline.base.devices import device_from, placed
from pipeline.base.progress import Progress
from pipeline.datasets.source import SPLITS, Item, Source, Split
from pipeline.features.store import StoredFeature
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import SplitData
from pipeline.models.encoder import Encoder, build_encoder
from pipeline.planning.cost import FeatureCost, TrainingCost, extraction_cost, training_cost
from pipeline.planning.stage_costs import (
    ScoringRates,
    drawing_seconds,
    operations_a_second,
    scoring_seconds,
    stage_start,
    start_seconds,
)
from pipeline.planning.trial_sample import TrialSample, sample_of
from pipeline.representations.representation import RepresentationOptions
from pipeline.representations.teachers.frozen import TeacherOptions
from pipeline.training.run import Run
from pipeline.training.supervised import supervised
from stages.experiment.schema import Experiment

FEW_IMAGES, MOST_IMAGES = 96, 256  # to measure; below, fixed costs are counted per image
MEASURED_SHARE = 12
EMBEDDED = 32  # images in a batch by which the encoder is timed


@dataclass(frozen=True)
class Costs:
    """What packing, each feature and training take; `training` is None without any.

    `control` is what training the control with labels takes, None if there is none.
    """

    sample: TrialSample
    features: Mapping[str, FeatureCost]
    training: TrainingCost | None
    control: TrainingCost | None = None

    @property
    def epoch_seconds(self) -> float:
        """Seconds of an epoch of the student, and of the control if there is one."""
        trained = (self.training, self.control)
        return sum(cost.epoch_seconds for cost in trained if cost is not None)

    @property
    def seconds_before_training(self) -> float:
        """Seconds of packing and extraction."""
        return self.sample.cost.seconds + sum(cost.seconds for cost in self.features.values())


def images_to_measure(training_images: int) -> int:
    """Return on how many images to measure, if there are that many."""
    return min(MOST_IMAGES, max(FEW_IMAGES, training_images // MEASURED_SHARE))


@contextmanager
def trial(
    experiment: Experiment,
    source: Source,
    splits: Mapping[Split, Sequence[Item]],
    *,
    images: int,
    progress: Progress,
) -> "Iterator[CostTrial]":
    """Pack a few images of an experiment, on which its costs, and those of variants, are measured.

    Variants have the images, splits and shards of `experiment`. Raises DataError if there are too
    few images.
    """
    progress.start("measure the start of a process", 0, "")
    start = start_seconds(meanwhile=_load_training)
    with tempfile.TemporaryDirectory(prefix="mvmr-plan-") as root:
        shards = experiment.dataset.shards
        sample = sample_of(source, splits, shards, count=images, root=Path(root), progress=progress)
        yield CostTrial(sample, len(source.classes or ()), start, progress)


class CostTrial:
    """A few packed images. What was extracted of them serves all variants that store the same."""

    def __init__(self, sample: TrialSample, classes: int, start: float, progress: Progress) -> None:
        self._sample, self._classes, self._start = sample, classes, start
        self._progress = progress
        self._extracted = dict[str, tuple[object, FeatureCost, StoredFeature]]()

    def costs(self, experiment: Experiment) -> Costs:
        """Return what packing, extraction and training take."""
        image, found = experiment.dataset.image, dict[str, FeatureCost]()
        for name, options in experiment.features.items():
            found[name] = self._extract(name, options, image)
        run = self._run(experiment)
        if run is None:
            return Costs(self._sample, found, None)
        own, control = self._training(run, "student"), None
        if run.options.supervised_control:
            control = self._training(supervised(run, {}), "control")
        return Costs(self._sample, found, own, control)

    def stage_seconds(self, experiment: Experiment, costs: Costs) -> dict[str, float]:
        """Return the seconds of each stage of `dvc repro`, in order, with its start."""
        image, sample = experiment.dataset.image, costs.sample
        encoder = build_encoder(
            experiment.student, channels=image.channels, size=image.size, seed=experiment.seed
        )
        encoders = ["student", "untrained"]
        if experiment.train is not None:
            encoders += ["start"] if experiment.student.weights else []
            encoders += ["supervised"] if experiment.train.supervised_control else []
        widths = {
            **dict.fromkeys(encoders, encoder.h_width),
            "pixels": image.channels * image.size**2,
            **{name: cost.width for name, cost in costs.features.items()},
        }
        rates = ScoringRates(_embedding_seconds(encoder, image), operations_a_second())
        per_view = 0.0
        if costs.training is not None and experiment.train is not None:
            views = experiment.train.views.in_global_ones(image.size)
            per_view = costs.training.image_seconds / views
        work = {"source": 0.0, "shard": sample.cost.seconds}
        work |= {f"extract@{name}": cost.seconds for name, cost in costs.features.items()}
        work |= {"select": 0.0, "train": 0.0}
        if experiment.train is not None:
            work["train"] = experiment.train.epochs * costs.epoch_seconds
        for name, options in experiment.evaluate.items():
            work[f"evaluate@{name}"] = scoring_seconds(
                options,
                images={str(split): count for split, count in sample.images.items()},
                widths=widths,
                classes=self._classes,
                encoders=len(encoders),
                rates=rates,
                view_seconds=per_view,
            )
        work |= {"report": drawing_seconds([*sample.images.values()][-1]), "keep": 0.0}
        return {stage: own + stage_start(stage, self._start) for stage, own in work.items()}

    def _extract(
        self, name: str, options: RepresentationOptions, image: ImageOptions
    ) -> FeatureCost:
        """Extract a feature, unless the last one of this name was made alike."""
        seen = None if isinstance(options, TeacherOptions) else image
        known = self._extracted.get(name)
        if known is None or known[0] != (options, seen):
            cost, stored = extraction_cost(
                self._sample, name, options, image, progress=self._progress
            )
            self._extracted[name] = ((options, seen), cost, stored)
        return self._extracted[name][1]

    def _run(self, experiment: Experiment) -> Run | None:
        """Return the student's run on the sample, None if the experiment trains none."""
        if experiment.train is None or experiment.objective is None:
            return None
        sample, image = self._sample, experiment.dataset.image
        targets = {name: self._extracted[name][2] for name in experiment.targets()}
        train, validation = (
            SplitData(sample.root / "shards" / split, sample.manifests[split], targets, image)
            for split in SPLITS[:2]
        )
        return Run(
            train=train,
            validation=validation,
            student=experiment.student.model_copy(update={"weights": None}),
            objective=experiment.objective,
            live={name: options.build(image) for name, options in experiment.live().items()},
            options=experiment.train,
            seed=experiment.seed,
            about={},
        )

    def _training(self, run: Run, name: str) -> TrainingCost:
        sample = self._sample
        few = replace(
            run.train,
            directory=sample.root / "shards" / "test",
            manifest=sample.manifests["test"],
        )
        return training_cost(
            run,
            few,
            sample,
            memory_share=run.options.loading.memory_share,
            work=sample.root / "run" / f"{run.image.size}-{name}",
            progress=self._progress,
        )


def _load_training() -> None:
    """Import what the measured training will need, which takes seconds of one core."""
    import pipeline.training.fit  # noqa: F401


def _embedding_seconds(encoder: Encoder, image: ImageOptions) -> float:
    """Return the seconds that an encoder takes for an image, on the device that is there."""
    device = device_from("auto")
    network = placed(encoder, device).eval()
    batch = torch.zeros(EMBEDDED, image.channels, image.size, image.size, device=device)
    with torch.inference_mode():
        network.features(batch).sum().item()  # the first time, memory is allocated
        began = time.perf_counter()
        network.features(batch).sum().item()
    return (time.perf_counter() - began) / EMBEDDED
