"""Fingerprints: what a stored feature was made from, compared with what an experiment asks for."""

from collections.abc import Mapping

from pipeline.base.errors import WeightsMissingError
from pipeline.base.locations import Location
from pipeline.base.progress import Progress
from pipeline.datasets.source import Split
from pipeline.features.store import (
    FeatureStore,
    Fingerprint,
    StoredFeature,
    check_fingerprint,
)
from pipeline.features.store.feature import VIEWS
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import JsonValue, RepresentationOptions, identity_of
from pipeline.shards.manifest import Manifest, read_manifests

# A reduction is fitted on at most this many images, with this seed.
FIT_IMAGES = 5120
FIT_SEED = 0
# Changes if rows of the same representation are stored in another way; part of fingerprints.
ROWS_FORMAT = 2


def fingerprint_of(
    options: RepresentationOptions,
    identity: Mapping[str, JsonValue],
    manifests: Mapping[Split, Manifest],
) -> Fingerprint:
    """Return everything that a stored feature depends on, as a JSON value.

    `identity` is that of the representation that `options` builds.
    """
    reduce = options.reduce.model_dump(exclude_none=True)
    views = options.views
    return {
        "format": ROWS_FORMAT,
        "representation": dict(identity),
        "reduce": {**reduce, "fit_images": FIT_IMAGES, "fit_seed": FIT_SEED} if reduce else None,
        "dtype": options.dtype,
        "shards": {split: manifest.digest for split, manifest in manifests.items()},
        **({VIEWS: {"count": views.count, **views.recipe()}} if views else {}),
    }


def check_features(
    features: Mapping[str, RepresentationOptions],
    *,
    image: ImageOptions,
    shards: Location,
    store: FeatureStore,
    progress: Progress,
) -> dict[str, StoredFeature]:
    """Return the stored features, after checking that they were made from these options and shards.

    If a teacher's weights are not on this machine, which may have fetched only the features, they
    are assumed to be those that the feature was made with, and `progress` gets a note. Raises
    StoreError if a feature is missing, StaleFeatureError if it was made from something else.
    """
    manifests = read_manifests(shards)
    checked = {}
    progress.start("check stored features", 0, "")
    for name, options in features.items():
        feature = store[name]
        expected, found = {}, dict(feature.fingerprint)
        try:
            identity = identity_of(options.build(image))
        except WeightsMissingError as error:
            progress.note(f"{name}: {error} The stored feature is checked without its weights.")
            identity = found["representation"]
            expected["options"] = options.model_dump(mode="json")
            found["options"] = feature.report["options"]
        expected |= fingerprint_of(options, identity, manifests)
        check_fingerprint(name, expected, found)
        checked[name] = feature
    return checked
