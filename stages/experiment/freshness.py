"""Checks before a stage: what shards are made with, and that features match them."""

from collections.abc import Mapping
from typing import Any

from pipeline.base.digests import digest
from pipeline.base.progress import Progress
from pipeline.datasets.source import Source
from pipeline.features.extraction.fingerprint import check_features
from pipeline.features.store import FeatureStore, StoredFeature
from pipeline.representations.representation import RepresentationOptions
from stages.experiment.paths import DatasetLayout
from stages.experiment.schema import Experiment, PackingOptions


def provenance(dataset: PackingOptions) -> dict[str, Any]:
    """Return the options that shards are made with, as their manifests record them."""
    return {
        "source": dataset.source.model_dump(mode="json"),
        "split": dataset.split.provenance(),
        "shards": dataset.shards.model_dump(mode="json"),
    }


def listing_of(dataset: PackingOptions, source: Source) -> str:
    """Return the digest by which DVC notices that the shards are to be brought up to date.

    It is that of the source's listing, and of the file that names groups of images, if any.
    """
    listing = source.listing_digest()
    groups = dataset.split.provenance().get("groups", {})
    return digest([listing, groups]) if "sha256" in groups else listing


def checked_features(
    experiment: Experiment,
    features: Mapping[str, RepresentationOptions],
    layout: DatasetLayout,
    progress: Progress,
) -> dict[str, StoredFeature]:
    """Return the stored features, after checking that they are as the experiment says.

    Raises StoreError for one that is missing, StaleFeatureError for one made from something else.
    """
    return check_features(
        features,
        image=experiment.dataset.image,
        shards=layout.shards,
        store=FeatureStore(layout.features),
        progress=progress,
    )
