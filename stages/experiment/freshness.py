"""Checks before a stage: shards match the source, and features match the shards."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from pipeline.base.errors import DataError
from pipeline.base.locations import Location
from pipeline.base.progress import Progress
from pipeline.base.text import counted
from pipeline.datasets.source import SPLITS, Source, Split
from pipeline.features.extraction.fingerprint import check_features
from pipeline.features.store import FeatureStore, StoredFeature, differing
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.listing import read_stamps
from pipeline.shards.manifest import MANIFEST, Manifest, read_manifest
from stages.experiment.paths import DatasetLayout
from stages.experiment.schema import DatasetOptions, Experiment

NAMED = 3


def provenance(dataset: DatasetOptions) -> dict[str, Any]:
    """Return the options that shards are made with, as their manifests record them."""
    sections = ("source", "split", "shards")
    return {name: getattr(dataset, name).model_dump(mode="json") for name in sections}


def finished_splits(dataset: DatasetOptions, source: Source, shards: Location) -> set[Split]:
    """Return the splits that exist, all made from the source as it is now.

    Raises DataError that says what differs if one was made from something else.
    """
    manifests = {
        split: read_manifest(shards / split)
        for split in SPLITS
        if (shards / split / MANIFEST).exists()
    }
    differences = list(_differences(dataset, source, shards, manifests))
    if differences:
        raise DataError(
            f"{shards} was made from something else: {'; '.join(differences)}. Pack it again "
            "with `mvmr shard --force` (under DVC: `dvc repro --force shard`, then `dvc repro`), "
            "or give dataset.name another name."
        )
    return set(manifests)


def check_source(experiment: Experiment, layout: DatasetLayout, progress: Progress) -> None:
    """Raise DataError if the images are no longer those of the shards.

    On a machine without the source, such as one that fetched only the shards, there is nothing
    to compare, and `progress` gets a note.
    """
    progress.start("compare the images with the shards", 0, "")
    try:
        source = experiment.dataset.source.open()
    except DataError as error:
        progress.note(f"The shards are used as they are: {error}")
        return
    finished_splits(experiment.dataset, source, layout.shards)


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


def _differences(
    dataset: DatasetOptions, source: Source, shards: Location, manifests: Mapping[Split, Manifest]
) -> Iterator[str]:
    listing = source.listing_digest() if manifests else ""
    for manifest in manifests.values():
        options = list(differing(provenance(dataset), manifest.options))
        if options:
            yield from options
            return
    if all(manifest.source == listing for manifest in manifests.values()):
        return
    then = dict[str, str]()
    for split, manifest in manifests.items():
        then |= read_stamps(shards / split, manifest)
    now = {item.name: item.stamp for items in source.splits.values() for item in items}
    yield from _named("added", now.keys() - then.keys())
    yield from _named("removed", then.keys() - now.keys())
    changed = {name for name in now.keys() & then.keys() if now[name] != then[name]}
    yield from _named("changed", changed)
    if now == then:
        yield "the classes or labels of the source"


def _named(what: str, names: set[str]) -> Iterator[str]:
    if names:
        some = ", ".join(islice(sorted(names), NAMED))
        more = ", ..." if len(names) > NAMED else ""
        yield f"{counted(len(names), 'images')} {what} ({some}{more})"
