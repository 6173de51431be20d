"""What a stored feature was made from, and whether it still is what the experiment asks for."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.datasets.base import Split
from pipeline.images import ImageOptions
from pipeline.representations.base import Representation, RepresentationOptions
from pipeline.shards import Manifest, read_manifests
from pipeline.store import FORMAT, FeatureStore, Fingerprint, StoredFeature

# A reduction is fitted on so many images, by this seed.
FIT_IMAGES = 5120
FIT_SEED = 0


def fingerprint_of(
    options: RepresentationOptions,
    representation: Representation,
    manifests: Mapping[Split, Manifest],
) -> Fingerprint:
    """Return everything that a stored feature depends on, as a JSON value."""
    reduce = options.reduce.model_dump(exclude_none=True)
    return {
        "format": FORMAT,
        "representation": representation.identity(),
        "reduce": {**reduce, "fit_images": FIT_IMAGES, "fit_seed": FIT_SEED} if reduce else None,
        "dtype": options.dtype,
        "shards": {split: manifest.digest for split, manifest in manifests.items()},
    }


def check_features(
    features: Mapping[str, RepresentationOptions],
    *,
    image: ImageOptions,
    shards: Path,
    store: FeatureStore,
) -> dict[str, StoredFeature]:
    """Return stored features that were made from exactly these options and shards.

    Raises StoreError for one that is missing, StaleFeatureError for one that was made from
    something else.
    """
    manifests = read_manifests(shards)
    return {
        name: store.check(name, fingerprint_of(options, options.build(image), manifests))
        for name, options in features.items()
    }
