"""What is scored: the student and its controls, as features of the same images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.base.atomic import atomic_path
from pipeline.base.digests import digest, state_digest
from pipeline.base.errors import DataError
from pipeline.base.progress import Progress
from pipeline.datasets.source import Split
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.labelled_features import LabelledFeatures
from pipeline.features.store import StoredFeature
from pipeline.images.original_view import ImageOptions, normalise
from pipeline.models.encoder import Encoder

WIDEST_PIXELS = 32

Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Subject:
    """Features of every valid image, by split, computed when first requested.

    `of(split)` returns (N, D) float32; row i is of the same image in every subject. `embed` maps
    any images (B, C, size, size), uint8 or in [0, 1], to features (B, D) on its device; it is None
    for stored features. `encoder` is the network, if there is one.
    """

    name: str
    of: Callable[[Split], Tensor]
    embed: Embed | None = None
    encoder: Encoder | None = None

    def labelled(self, images: Images, split: Split) -> LabelledFeatures:
        """Return the features of the labelled images of a split.

        Raises DataError if no image has a label, or if images have several.
        """
        if images.several_classes:
            raise DataError(
                "This protocol is for images with one class each, and these may have several: "
                "use voc07 or retrieval."
            )
        known = images.known(split)
        return LabelledFeatures(self.of(split)[known], images.labels(split)[known])


def encoder_subject(
    name: str,
    encoder: Encoder,
    images: Images,
    *,
    device: torch.device,
    cache: Path,
    progress: Progress,
) -> Subject:
    """Return an encoder's features h of the original view, in evaluation mode.

    They are cached in the directory `cache`, by the digest of encoder and images. If `images` are
    limited to the first ones, the cache is read but not written.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    encoder.to(device).eval()
    embed = _frozen(encoder.features, images.image, device)
    identity = encoder_digest(encoder)

    def of(split: Split) -> Tensor:
        data = images.splits[split]
        key = digest([identity, data.manifest.digest, images.image.model_dump(mode="json")])
        path = cache / f"{name}-{split}-{key[:16]}.safetensors"
        if images.first is not None and not path.exists():
            return _stream(embed, images, split, f"embed {split} by {name}", progress)
        if not path.exists():
            for older in cache.glob(f"{name}-{split}-*.safetensors"):
                older.unlink()
            embedded = _stream(embed, images, split, f"embed {split} by {name}", progress)
            with atomic_path(path) as temporary:
                save_file({"h": embedded}, temporary)
        with safe_open(path, framework="pt") as kept:
            features: Tensor = kept.get_slice("h")[: images.count(split)]
        return features

    return Subject(name, of, embed, encoder)


def encoder_digest(encoder: Encoder) -> str:
    """Return the SHA-256 (hex) of an encoder's layers, weights and statistics."""
    layers = repr(encoder.backbone)  # strides and pooling have no weights
    return digest([layers, state_digest(encoder)])


def _frozen(network: Embed, image: ImageOptions, device: torch.device) -> Embed:
    def embed(batch: Tensor) -> Tensor:
        with torch.no_grad():
            return network(normalise(batch.to(device), image)).float()

    return embed


def _stream(embed: Embed, images: Images, split: Split, what: str, progress: Progress) -> Tensor:
    """Return the features (N, D) of a split, on the CPU."""
    count = images.count(split)
    progress.start(what, count, "images")
    features, first = torch.empty(0), 0
    for batch in images.batches(split):
        part = embed(batch).cpu()
        if first == 0:
            features = part.new_empty(count, part.shape[1])
        features[first : first + len(part)] = part
        first += len(part)
        progress.advance(len(part))
    return features


def pixel_subject(images: Images, *, device: torch.device, progress: Progress) -> Subject:
    """Return the normalised original view, flattened, at most `WIDEST_PIXELS` on each side.

    Larger views are reduced by averaging: raw pixels of ImageNet would take 770 GB.
    """
    side = min(images.image.size, WIDEST_PIXELS)
    embed = _frozen(lambda x: F.adaptive_avg_pool2d(x, side).flatten(1), images.image, device)
    held: dict[Split, Tensor] = {}

    def of(split: Split) -> Tensor:
        if split not in held:
            held[split] = _stream(embed, images, split, f"read {split} pixels", progress)
        return held[split]

    return Subject("pixels", of, embed)


def stored_subject(feature: StoredFeature, images: Images) -> Subject:
    """Return a stored feature of the valid images, without further processing."""

    def of(split: Split) -> Tensor:
        index = images.index(split)
        rows = torch.from_numpy(feature.read(split, 0, int(index[-1]) + 1))
        return rows[index].float()

    return Subject(feature.name, of)
