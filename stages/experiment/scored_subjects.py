"""What an experiment scores: the student and its controls, on the experiment's images."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pipeline.base.devices import device_from
from pipeline.base.errors import DataError
from pipeline.base.progress import Progress
from pipeline.datasets.source import Split
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.subjects import Subject, encoder_subject, pixel_subject, stored_subject
from pipeline.loading.batch import SplitData
from pipeline.models.checkpoint import Checkpoint
from pipeline.models.encoder import build_encoder
from pipeline.shards.manifest import Manifest, read_manifests
from stages.experiment.freshness import checked_features
from stages.experiment.paths import DatasetLayout, evaluation_work
from stages.experiment.schema import Experiment


@dataclass(frozen=True)
class Scored:
    """`encoders` are the student and the same encoder untrained; `pixels` are the raw images."""

    images: Images
    encoders: tuple[Subject, Subject]
    pixels: Subject
    references: Mapping[str, Subject]
    device: torch.device

    @property
    def subjects(self) -> list[Subject]:
        """The student first, then the controls; pixels once, if they are a stored feature."""
        beside = [] if "pixels" in self.references else [self.pixels]
        return [*self.encoders, *beside, *self.references.values()]


def scored(
    experiment: Experiment,
    trained: Checkpoint,
    layout: DatasetLayout,
    progress: Progress,
    *,
    first: int | None = None,
) -> Scored:
    """Return images and subjects for the `first` valid images of each split, or for all.

    Raises DataError or StoreError if shards or features are not those of the experiment.
    """
    image = experiment.dataset.image
    device = device_from("auto")
    manifests = read_manifests(layout.shards)
    _require_same_images(trained, experiment.dataset.name, manifests)
    data = {
        split: SplitData(layout.shards / split, manifest, {}, image)
        for split, manifest in manifests.items()
    }
    images = Images(data, first=first)
    features = checked_features(experiment, experiment.features, layout, progress)
    progress.start("build encoders", 0, "")
    untrained = build_encoder(
        trained.student, channels=image.channels, size=image.size, seed=experiment.seed
    )
    student, control = (
        encoder_subject(
            name,
            encoder,
            images,
            device=device,
            cache=evaluation_work(experiment.name),
            progress=progress,
        )
        for name, encoder in {"student": trained.build(), "untrained": untrained}.items()
    )
    return Scored(
        images=images,
        encoders=(student, control),
        pixels=pixel_subject(images, device=device, progress=progress),
        references={name: stored_subject(f, images) for name, f in features.items()},
        device=device,
    )


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
