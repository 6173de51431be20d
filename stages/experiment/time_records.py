"""Paths of the files that record how long stages took, named by a digest of their inputs."""

from collections.abc import Mapping
from typing import Any

from pipeline.base.digests import digest
from pipeline.base.locations import Location
from pipeline.base.timing import record_name
from pipeline.datasets.source import Split
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.manifest import Manifest
from stages.experiment.paths import DatasetLayout, RunLayout


def shard_record(layout: DatasetLayout, options: Mapping[str, Any], source: str) -> Location:
    """Return the record of packing; `source` is the digest of the source's listing."""
    return layout.times / record_name("shard", digest([dict(options), source]))


def feature_record(
    layout: DatasetLayout,
    name: str,
    options: RepresentationOptions,
    image: ImageOptions,
    manifests: Mapping[Split, Manifest],
) -> Location:
    """Return the record of extracting one feature."""
    asked = [
        options.model_dump(mode="json"),
        image.model_dump(mode="json"),
        {split: manifest.digest for split, manifest in manifests.items()},
    ]
    return layout.times / record_name(f"extract-{name}", digest(asked))


def training_record(layout: RunLayout, key: str) -> Location:
    """Return the record of the training run with this run key."""
    return layout.times / record_name("train", key)


def evaluation_record(layout: RunLayout, name: str, provenance: Mapping[str, Any]) -> Location:
    """Return the record of a protocol, from the provenance in its metrics file."""
    made_by = [provenance["protocol"], provenance["checkpoint"]["sha256"], provenance["seed"]]
    return layout.times / record_name(f"evaluate-{name}", digest(made_by))
