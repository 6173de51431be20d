"""What a stored feature was made from, and whether it still is what the experiment asks for."""

from collections.abc import Mapping

from pipeline.base.errors import WeightsMissingError
from pipeline.base.locations import Location
from pipeline.base.progress import Progress
from pipeline.datasets.source import Split
from pipeline.features.store import (
    FORMAT,
    FeatureStore,
    Fingerprint,
    StoredFeature,
    check_fingerprint,
)
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import JsonValue, RepresentationOptions
from pipeline.shards.manifest import Manifest, read_manifests

# A reduction is fitted on so many images, by this seed.
FIT_IMAGES = 5120
FIT_SEED = 0


def fingerprint_of(
    options: RepresentationOptions,
    identity: Mapping[str, JsonValue],
    manifests: Mapping[Split, Manifest],
) -> Fingerprint:
    """Return everything that a stored feature depends on, as a JSON value.

    `identity` is that of the representation that `options` build.
    """
    reduce = options.reduce.model_dump(exclude_none=True)
    return {
        "format": FORMAT,
        "representation": dict(identity),
        "reduce": {**reduce, "fit_images": FIT_IMAGES, "fit_seed": FIT_SEED} if reduce else None,
        "dtype": options.dtype,
        "shards": {split: manifest.digest for split, manifest in manifests.items()},
    }


def check_features(
    features: Mapping[str, RepresentationOptions],
    *,
    image: ImageOptions,
    shards: Location,
    store: FeatureStore,
    progress: Progress,
) -> dict[str, StoredFeature]:
    """Return stored features that were made from exactly these options and shards.

    Where a teacher's weights are not on this machine, as on one that has fetched the features
    alone, the weights are taken to be those that the feature was made with; `progress` is told.
    Raises StoreError for a feature that is missing, StaleFeatureError for one that was made
    from something else.
    """
    manifests = read_manifests(shards)
    checked = {}
    progress.start("check stored features", 0, "")
    for name, options in features.items():
        feature = store[name]
        expected, found = {}, dict(feature.fingerprint)
        try:
            identity = options.build(image).identity()
        except WeightsMissingError as error:
            progress.note(f"{name}: {error} The stored feature is checked without its weights.")
            identity = found["representation"]
            expected["options"] = options.model_dump(mode="json")
            found["options"] = feature.report["options"]
        expected |= fingerprint_of(options, identity, manifests)
        check_fingerprint(name, expected, found)
        checked[name] = feature
    return checked
