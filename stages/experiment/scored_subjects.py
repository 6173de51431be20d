"""What an experiment scores: the student and its controls, on the experiment's images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.base.devices import device_from
from pipeline.base.errors import ConfigError, DataError, WeightsError
from pipeline.base.progress import Progress, Silent
from pipeline.datasets.source import Split
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.protocol import Setting
from pipeline.evaluation.subjects import Recomputed, Subject, image_subjects, stored_subject
from pipeline.features.store import StoredFeature
from pipeline.loading.batch import SplitData
from pipeline.models.checkpoint import Checkpoint, load_checkpoint
from pipeline.models.encoder import Encoder, build_encoder
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.manifest import Manifest, read_manifests
from stages.experiment.paths import DatasetLayout
from stages.experiment.run_identity import given_weights
from stages.experiment.schema import Experiment


@dataclass(frozen=True)
class Scored:
    """Encoders, raw images (`pixels`) and stored features, all of the same images."""

    images: Images
    encoders: tuple[Subject, ...]
    pixels: Subject
    references: Mapping[str, Subject]
    device: torch.device

    def setting(
        self, experiment: Experiment, trained: Checkpoint, work: Path, progress: Progress
    ) -> Setting:
        """Return what the protocols may use besides the subjects that they score."""
        return Setting(
            images=self.images,
            references=self.references,
            specifications=experiment.features,
            checkpoint=trained,
            device=self.device,
            seed=experiment.seed,
            work=work,
            progress=progress,
        )

    @property
    def subjects(self) -> list[Subject]:
        """The encoders first, then the controls; pixels once, if they are a stored feature."""
        beside = [] if "pixels" in self.references else [self.pixels]
        return [*self.encoders, *beside, *self.references.values()]


def scored(
    experiment: Experiment,
    trained: Checkpoint,
    layout: DatasetLayout,
    features: Mapping[str, StoredFeature],
    cache: Path,
    progress: Progress,
    *,
    supervised: Path | None = None,
    first: int | None = None,
) -> Scored:
    """Return the student and its controls for the `first` valid images of each split, or for all.

    Its encoders are the student and the same encoder trained otherwise, or not at all: as its
    weights came, if it was trained from any; trained with labels, if `supervised` is the checkpoint
    of that; and untrained. Raises DataError if the shards are not those of a checkpoint.
    """
    image, manifests = experiment.dataset.image, read_manifests(layout.shards)
    progress.start("build encoders", 0, "")
    untrained = build_encoder(
        trained.student, channels=image.channels, size=image.size, seed=experiment.seed
    )
    encoders = {
        "student": trained.build(),
        **_before_training(experiment, trained, progress),
        **_with_labels(experiment, supervised, manifests),
        "untrained": untrained,
    }
    return scored_encoders(
        encoders, experiment, trained, layout, features, cache, progress, first=first
    )


def scored_encoders(
    encoders: Mapping[str, Encoder],
    experiment: Experiment,
    trained: Checkpoint,
    layout: DatasetLayout,
    features: Mapping[str, StoredFeature],
    cache: Path,
    progress: Progress,
    *,
    first: int | None = None,
) -> Scored:
    """Return encoders that were made from one checkpoint, and what they are compared with.

    `features` are all stored features of the experiment; embeddings are kept in `cache`. Raises
    DataError if the shards are not those of the checkpoint.
    """
    device = device_from("auto")
    images = images_of(experiment, trained, layout, first=first)
    subjects = image_subjects(
        encoders,
        images,
        device=device,
        cache=cache,
        progress=progress,
    )
    return Scored(
        images=images,
        encoders=tuple(subjects[name] for name in encoders),
        pixels=subjects["pixels"],
        references={
            name: _reference(feature, experiment.features[name], images, device)
            for name, feature in features.items()
        },
        device=device,
    )


def images_of(
    experiment: Experiment, trained: Checkpoint, layout: DatasetLayout, *, first: int | None = None
) -> Images:
    """Return the `first` valid images of each split, or all.

    Raises DataError if the shards are not those of the checkpoint.
    """
    manifests = read_manifests(layout.shards)
    _require_same_images(trained, experiment.dataset.name, manifests)
    data = {
        split: SplitData(layout.shards / split, manifest, {}, experiment.dataset.image)
        for split, manifest in manifests.items()
    }
    return Images(data, first=first)


def _before_training(
    experiment: Experiment, trained: Checkpoint, progress: Progress
) -> dict[str, Encoder]:
    """Return the student with the weights that its training began with, if it had any."""
    if experiment.train is None or experiment.student.weights is None:
        return {}
    from pipeline.training.start import initial_encoder

    try:
        weights = given_weights(experiment)
        return {
            "start": initial_encoder(
                trained.student, trained.image, weights, seed=experiment.seed, progress=Silent()
            ).eval()
        }
    except (ConfigError, WeightsError) as error:
        progress.note(f"The student before training is not scored: {error}")
        return {}


def _with_labels(
    experiment: Experiment, path: Path | None, manifests: Mapping[Split, Manifest]
) -> dict[str, Encoder]:
    """Return the control trained with labels, if there is one."""
    if path is None:
        return {}
    image = experiment.dataset.image
    control = load_checkpoint(path, student=experiment.student, image=image)
    _require_same_images(control, experiment.dataset.name, manifests)
    return {"supervised": control.build()}


def _reference(
    feature: StoredFeature, options: RepresentationOptions, images: Images, device: torch.device
) -> Subject:
    possible = options.computable
    recomputed = Recomputed(feature, options, images.image, device) if possible else None
    return stored_subject(feature, images, recomputed)


def _require_same_images(
    trained: Checkpoint, dataset: str, manifests: Mapping[Split, Manifest]
) -> None:
    """Raise DataError if a new split may have put images seen in training into the test set."""
    seen = dict(trained.about.get("shards", {}))
    if seen.pop("dataset", None) != dataset:
        return
    now = {split: manifest.digest for split, manifest in manifests.items()}
    other = [split for split, digest in seen.items() if now.get(split) != digest]
    if other:
        raise DataError(
            f"The checkpoint was trained on other {' and '.join(other)} images of {dataset!r} than "
            "these shards hold, so that images it has seen may be among the test images: run "
            "`mvmr train`, or restore the shards."
        )
