"""What is scored: the student, and the controls beside it, as features of the same images."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from pipeline.config import digest
from pipeline.datasets.base import Split
from pipeline.encoders import Encoder
from pipeline.errors import DataError
from pipeline.evaluation.features import LabelledFeatures
from pipeline.images import ImageOptions, normalise
from pipeline.loading.batch import NO_LABEL
from pipeline.loading.resident import EvaluationLoader
from pipeline.runtime import Progress, Silent, atomic_path
from pipeline.store import StoredFeature


@dataclass(frozen=True)
class Subject:
    """Features of every valid image by split, computed when first asked for.

    `of(split)` returns (N, D) float32; row i belongs to row i of every other subject's.
    """

    name: str
    of: Callable[[Split], Tensor]


class Images:
    """The splits of a data set as the protocols see them: labels, sizes, and batches."""

    def __init__(self, loaders: Mapping[Split, EvaluationLoader]) -> None:
        self.loaders = loaders

    def labels(self, split: Split) -> Tensor:
        """Return the labels (N,) of a split, NO_LABEL where an image has none."""
        return self.loaders[split].resident.labels

    def labelled(self, subject: Subject, split: Split) -> LabelledFeatures:
        """Return a subject's features of the labelled images of a split.

        Raises DataError if the split is missing or has no labels.
        """
        if split not in self.loaders:
            raise DataError(
                f"This protocol needs {split} images, and there are none: set "
                f"dataset.split.{split} to a share such as 0.1, and run `mvmr shard --force`."
            )
        labels = self.labels(split)
        known = labels != NO_LABEL
        if not known.any():
            raise DataError(
                f"This protocol needs labels, and the {split} images have none: leave it out of "
                "`evaluate`, and use retrieval, which needs no labels."
            )
        return LabelledFeatures(subject.of(split)[known], labels[known])


def encoder_subject(
    name: str,
    encoder: Encoder,
    images: Images,
    image: ImageOptions,
    *,
    device: torch.device,
    cache: Path,
    progress: Progress | None = None,
) -> Subject:
    """Return the features h of an encoder, in evaluation mode, of the original view.

    They are kept in the directory `cache`, by the digest of encoder and images.
    """
    identity = encoder_digest(encoder)

    def of(split: Split) -> Tensor:
        loader = images.loaders[split]
        key = digest([identity, loader.digest, image.model_dump(mode="json")])
        path = cache / f"{name}-{split}-{key[:16]}.safetensors"
        if not path.exists():
            for older in cache.glob(f"{name}-{split}-*.safetensors"):
                older.unlink()
            embedded = _embed(encoder, loader, image, device, name, progress or Silent())
            with atomic_path(path) as temporary:
                save_file({"h": embedded}, temporary)
        features: Tensor = load_file(path)["h"]
        return features

    return Subject(name, of)


def encoder_digest(encoder: Encoder) -> str:
    """Return the SHA-256 (hex) of an encoder's layers, weights and statistics."""
    layers = repr(encoder.backbone).encode()  # strides and pooling have no weights
    return hashlib.sha256(layers + save(encoder.state_dict())).hexdigest()


def _embed(
    encoder: Encoder,
    loader: EvaluationLoader,
    image: ImageOptions,
    device: torch.device,
    name: str,
    progress: Progress,
) -> Tensor:
    progress.start(f"embed {loader.split} by {name}", len(loader.resident), "images")
    encoder.to(device).eval()
    parts = []
    with torch.inference_mode():
        for batch in loader:
            parts.append(encoder.features(normalise(batch["images"].to(device), image)).cpu())
            progress.advance(len(parts[-1]))
    return torch.cat(parts).float()


def pixel_subject(images: Images, image: ImageOptions) -> Subject:
    """Return the normalised original view, flattened."""

    def of(split: Split) -> Tensor:
        return normalise(images.loaders[split].resident.images, image).flatten(1)

    return Subject("pixels", of)


def stored_subject(feature: StoredFeature, images: Images) -> Subject:
    """Return a stored feature, as it is stored, of the valid images."""

    def of(split: Split) -> Tensor:
        rows = torch.from_numpy(feature.read(split))[images.loaders[split].resident.index]
        return rows.float()

    return Subject(feature.name, of)
