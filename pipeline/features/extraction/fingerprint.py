"""Fingerprints: what a stored feature was made from, compared with what an experiment asks for."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.base.errors import StaleFeatureError, WeightsMissingError
from pipeline.base.locations import Location
from pipeline.base.progress import Progress
from pipeline.base.trial_vectors import TrialVectors, agree, trial_vectors
from pipeline.datasets.source import Split
from pipeline.features.store import (
    FeatureStore,
    Fingerprint,
    StoredFeature,
    check_fingerprint,
)
from pipeline.features.store.feature import TRIAL, VIEWS, without_basis
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import JsonValue, RepresentationOptions, identity_of
from pipeline.representations.row_check import checked_vectors, tolerance_of
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

    One whose place another feature of its name has taken is found among the superseded ones. If a
    teacher's weights are not on this machine, which may have fetched only the features, they are
    assumed to be those that the feature was made with, and `progress` gets a note. Raises
    StoreError if a feature is missing, StaleFeatureError if it was made from something else.
    """
    manifests = read_manifests(shards)
    checked = {}
    progress.start("check stored features", 0, "")
    for name, options in features.items():
        current, representation, identity = store[name], None, None
        try:
            representation = options.build(image)
            identity = identity_of(representation)
        except WeightsMissingError as error:
            progress.note(f"{name}: {error} The stored feature is checked without its weights.")
        wanted = _Wanted(options, identity, manifests)
        feature = next(filter(wanted.is_made_so, store.of_name(name)), current)
        check_fingerprint(name, wanted.expected(feature), wanted.found(feature))
        if representation is not None and options.in_this_process_only:
            vectors = checked_vectors(representation, f"The representation {name!r}")
            require_same_vectors(feature, options, trial_vectors(vectors))
        checked[name] = feature
    return checked


@dataclass(frozen=True)
class _Wanted:
    """What a feature is to be made from; `identity` is None if its weights are missing."""

    options: RepresentationOptions
    identity: Mapping[str, JsonValue] | None
    manifests: Mapping[Split, Manifest]

    def expected(self, feature: StoredFeature) -> Fingerprint:
        """Return the fingerprint that a stored feature should have, and its options if need be."""
        if self.identity is not None:
            return fingerprint_of(self.options, self.identity, self.manifests)
        identity = feature.fingerprint["representation"]
        options = {"options": self.options.model_dump(mode="json")}
        return {**options, **fingerprint_of(self.options, identity, self.manifests)}

    def found(self, feature: StoredFeature) -> Fingerprint:
        """Return what a stored feature has of it."""
        if self.identity is not None:
            return feature.fingerprint
        return {**feature.fingerprint, "options": feature.report["options"]}

    def is_made_so(self, feature: StoredFeature) -> bool:
        """Return whether a stored feature is the one."""
        return without_basis(self.found(feature)) == self.expected(feature)


def require_same_vectors(
    feature: StoredFeature, options: RepresentationOptions, trial: TrialVectors
) -> None:
    """Raise StaleFeatureError unless a stored feature was computed by what gives these vectors.

    Code and preparations of the user's own may change under the name that they are known by.
    """
    if not gives_same_vectors(feature, options, trial):
        raise StaleFeatureError(
            f"The stored feature {feature.name!r} was computed by something that gives other "
            "vectors under the same name and weights: its code or its preparation of images has "
            "changed. Name what computes it otherwise (or raise its version), or compute all rows "
            f"again with `mvmr extract-features --only {feature.name} --force`."
        )


def gives_same_vectors(
    feature: StoredFeature, options: RepresentationOptions, trial: TrialVectors
) -> bool:
    """Return whether a stored feature was computed by what gives these vectors of trial pictures.

    Rows that an earlier version stored do not tell.
    """
    recorded = feature.report.get(TRIAL)
    return recorded is None or agree(trial, recorded, within=tolerance_of(options))
