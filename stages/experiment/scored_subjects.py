"""What an experiment scores: the student and its controls, on the experiment's images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.base.devices import device_from
from pipeline.base.errors import DataError
from pipeline.base.progress import Progress
from pipeline.datasets.source import Split
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.subjects import Subject, image_subjects, stored_subject
from pipeline.features.store import StoredFeature
from pipeline.loading.batch import SplitData
from pipeline.models.checkpoint import Checkpoint
from pipeline.models.encoder import build_encoder
from pipeline.shards.manifest import Manifest, read_manifests
from stages.experiment.paths import DatasetLayout
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
    features: Mapping[str, StoredFeature],
    cache: Path,
    progress: Progress,
    *,
    first: int | None = None,
) -> Scored:
    """Return images and subjects for the `first` valid images of each split, or for all.

    `features` are all stored features of the experiment; embeddings are kept in `cache`. Raises
    DataError if the shards are not those of the checkpoint.
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
    progress.start("build encoders", 0, "")
    untrained = build_encoder(
        trained.student, channels=image.channels, size=image.size, seed=experiment.seed
    )
    subjects = image_subjects(
        {"student": trained.build(), "untrained": untrained},
        images,
        device=device,
        cache=cache,
        progress=progress,
    )
    return Scored(
        images=images,
        encoders=(subjects["student"], subjects["untrained"]),
        pixels=subjects["pixels"],
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
