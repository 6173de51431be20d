"""Checks before a stage: what shards are made with, and that features match them."""

from collections.abc import Mapping
from typing import Any

from pipeline.base.progress import Progress
from pipeline.features.extraction.fingerprint import check_features
from pipeline.features.store import FeatureStore, StoredFeature
from pipeline.representations.representation import RepresentationOptions
from stages.experiment.paths import DatasetLayout
from stages.experiment.schema import DatasetOptions, Experiment


def provenance(dataset: DatasetOptions) -> dict[str, Any]:
    """Return the options that shards are made with, as their manifests record them."""
    return {
        "source": dataset.source.model_dump(mode="json"),
        "split": dataset.split.provenance(),
        "shards": dataset.shards.model_dump(mode="json"),
    }


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
