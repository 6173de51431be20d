"""What is scored: the student and its controls, as features of the same images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipeline.base.atomic import atomic_path
from pipeline.base.devices import placed
from pipeline.base.digests import digest, state_digest
from pipeline.base.errors import DataError
from pipeline.base.progress import Progress
from pipeline.datasets.source import Split
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.labelled_features import LabelledFeatures
from pipeline.features.reduction import Reduction
from pipeline.features.store import StoredFeature
from pipeline.images.image_batch import unit_images
from pipeline.images.original_view import ImageOptions, normalise_views
from pipeline.models.encoder import Encoder
from pipeline.representations.representation import Representation, RepresentationOptions

WIDEST_PIXELS = 32

Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Subject:
    """Features of every valid image, by split, computed when first requested.

    `of(split)` returns (N, D) float32; row i is of the same image in every subject. `embed` maps
    any images (B, C, size, size), uint8 or views in [0, 1], to features (B, D) on its device; it is
    None for stored features. `recomputed` maps original views (B, C, size, size), uint8, to what
    would be stored of them, where that is possible. `encoder` is the network, if there is one.
    """

    name: str
    of: Callable[[Split], Tensor]
    embed: Embed | None = None
    encoder: Encoder | None = None
    recomputed: Embed | None = None

    @property
    def of_views(self) -> Embed | None:
        """The map from original views (B, C, size, size), uint8, to features (B, D), if any."""
        return self.embed or self.recomputed

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


def image_subjects(
    encoders: Mapping[str, Encoder],
    images: Images,
    *,
    device: torch.device,
    cache: Path,
    progress: Progress,
) -> dict[str, Subject]:
    """Return encoders' features h of the original view, in evaluation mode, and `pixels`.

    Pixels are the normalised original view, flattened, at most `WIDEST_PIXELS` on each side: larger
    views are reduced by averaging. Images of a split are decoded once for all of these subjects,
    and the features cached in the directory `cache`, by the digest of encoder and images. If
    `images` are limited to the first ones, the cache is read but not written.
    """
    embeds: dict[str, Embed] = {}
    identities: dict[str, str] = {}
    for name, encoder in encoders.items():
        placed(encoder, device).eval()
        embeds[name] = _frozen(encoder.features, images.image, device)
        identities[name] = encoder_digest(encoder)
    side = min(images.image.size, WIDEST_PIXELS)
    embeds["pixels"] = _frozen(
        lambda x: F.adaptive_avg_pool2d(x, side).flatten(1), images.image, device
    )
    identities["pixels"] = f"pixels {side}"
    embedded = _Embedded(embeds, identities, images, cache, progress)
    return {
        name: Subject(name, partial(embedded.of, name), embed, encoders.get(name))
        for name, embed in embeds.items()
    }


class _Embedded:
    """Features of images by several networks, which one decoding of the images serves."""

    def __init__(
        self,
        embeds: Mapping[str, Embed],
        identities: Mapping[str, str],
        images: Images,
        cache: Path,
        progress: Progress,
    ) -> None:
        self._embeds, self._identities, self._images = embeds, identities, images
        self._cache, self._progress = cache, progress

    def of(self, name: str, split: Split) -> Tensor:
        """Return the features (N, D) of a split by one network."""
        from safetensors import safe_open

        path = self._path(name, split)
        if not path.exists():
            found = self._computed(name, split)
            if self._images.first is not None:
                return found
        with safe_open(path, framework="pt") as kept:
            features: Tensor = kept.get_slice("h")[: self._images.count(split)]
        return features

    def _computed(self, name: str, split: Split) -> Tensor:
        """Compute what is missing of a split, keep it if it is whole, and return one's features."""
        from safetensors.torch import save_file

        missing = [n for n in self._embeds if not self._path(n, split).exists()]
        found = self._streamed(missing, split)
        if self._images.first is None:
            for own, features in found.items():
                for older in self._cache.glob(f"{own}-{split}-*.safetensors"):
                    older.unlink()
                with atomic_path(self._path(own, split)) as temporary:
                    save_file({"h": features}, temporary)
        return found[name]

    def _streamed(self, names: Sequence[str], split: Split) -> dict[str, Tensor]:
        """Return the features (N, D) of a split by each of some networks, on the CPU."""
        count = self._images.count(split)
        self._progress.start(f"embed {split} by {', '.join(names)}", count, "images")
        features, first = dict[str, Tensor](), 0
        for batch in self._images.batches(split):
            last = first + len(batch)
            for name in names:
                part = self._embeds[name](batch).cpu()
                if name not in features:
                    features[name] = part.new_empty(count, part.shape[1])
                features[name][first:last] = part
            first = last
            self._progress.advance(len(batch))
        return features

    def _path(self, name: str, split: Split) -> Path:
        data, image = self._images.splits[split], self._images.image
        key = digest([self._identities[name], data.manifest.digest, image.model_dump(mode="json")])
        return self._cache / f"{name}-{split}-{key[:16]}.safetensors"


def encoder_digest(encoder: Encoder) -> str:
    """Return the SHA-256 (hex) of an encoder's layers, weights and statistics."""
    layers = repr(encoder.backbone)  # strides and pooling have no weights
    return digest([layers, state_digest(encoder)])


def _frozen(network: Embed, image: ImageOptions, device: torch.device) -> Embed:
    def embed(batch: Tensor) -> Tensor:
        with torch.no_grad():
            images = batch.to(device)
            if not images.is_floating_point():
                images = unit_images(images, image.channels)
            return network(normalise_views(images, image)).float()

    return embed


def stored_subject(
    feature: StoredFeature, images: Images, recomputed: Embed | None = None
) -> Subject:
    """Return a stored feature of the valid images, without further processing."""

    def of(split: Split) -> Tensor:
        index = images.index(split)
        rows = torch.from_numpy(feature.read(split, 0, int(index[-1]) + 1))
        return rows[index].float()

    return Subject(feature.name, of, recomputed=recomputed)


class Recomputed:
    """Computes a stored feature of other views than the stored ones, before rounding.

    A teacher prepares a view as it does an image file of the view's size.
    """

    def __init__(
        self,
        feature: StoredFeature,
        options: RepresentationOptions,
        image: ImageOptions,
        device: torch.device,
    ) -> None:
        self._feature, self._options, self._device = feature, options, device
        self._image = image.model_copy(update={"resize": None})  # a view has been cropped already

    @cached_property
    def _parts(self) -> tuple[Representation, Reduction]:
        representation = self._options.build(self._image).to(self._device).eval()
        return representation, Reduction.load(*self._feature.reduction()).to(self._device)

    @torch.no_grad()
    def __call__(self, views: Tensor) -> Tensor:
        """Map views (B, C, size, size), uint8, to vectors (B, D)."""
        representation, reduction = self._parts
        pictures = (Image.fromarray(view.squeeze(-1).numpy()) for view in views.movedim(1, -1))
        prepared = torch.stack([representation.preparation(picture) for picture in pictures])
        return reduction.apply(representation(prepared.to(self._device)))
