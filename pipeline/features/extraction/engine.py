"""Running an extraction: finding what is missing, having it computed, and publishing it."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from pipeline.base.digests import digest
from pipeline.base.errors import ConfigError, StoreError
from pipeline.base.locations import Location, names_in
from pipeline.base.locks import exclusive
from pipeline.base.progress import Progress
from pipeline.datasets.source import Split
from pipeline.features.extraction.cluster import ClusterOptions, cluster
from pipeline.features.extraction.fingerprint import fingerprint_of
from pipeline.features.extraction.prepare import prepare
from pipeline.features.extraction.worker import FeatureTask, Span, Task, extract_shard
from pipeline.features.store import FeatureStore, Fingerprint, StoredFeature
from pipeline.features.store.writer import DONE
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.manifest import Manifest, read_manifests

LOCK = "lock"


def extract(
    features: Mapping[str, RepresentationOptions],
    *,
    image: ImageOptions,
    shards: Location,
    store: FeatureStore,
    work: Location,
    options: ClusterOptions,
    progress: Progress,
    force: bool = False,
) -> dict[str, StoredFeature]:
    """Compute and publish the features that the store lacks, and return all requested ones.

    A complete feature with the same fingerprint is left alone. One with another fingerprint
    raises StaleFeatureError, unless `force` is set. Unfinished work below `work` is continued.
    """
    shards, work, path = shards.absolute(), work.absolute(), store.path.absolute()
    manifests = read_manifests(shards)
    tasks = []
    with exclusive(work / LOCK, busy(store)):
        progress.start("build representations", 0, "")
        for name, wanted in features.items():
            task = feature_task(name, wanted, image, manifests, path, work)
            if name in store and not force:
                store.check(name, task.fingerprint)
            else:
                tasks.append(task)
        if tasks:
            complete(tasks, manifests, image, shards, options, progress)
    return {name: store[name] for name in features}


def unfinished(work: Location) -> list[tuple[str, str, int]]:
    """Return name, fingerprint digest and number of finished shards of unfinished features."""
    found = []
    for directory in sorted(names_in(work) - {LOCK}):
        name, _, fingerprint = directory.rpartition("-")
        found.append((name, fingerprint, len(names_in(work / directory / DONE))))
    return found


def feature_digest(
    options: RepresentationOptions, image: ImageOptions, manifests: Mapping[Split, Manifest]
) -> str:
    """Return the fingerprint digest of a feature, as `unfinished` returns it.

    Raises WeightsError if the weights of a teacher are missing.
    """
    return _short(fingerprint_of(options, options.build(image).identity(), manifests))


def _short(fingerprint: Fingerprint) -> str:
    return digest(fingerprint)[:16]


def busy(store: FeatureStore) -> StoreError:
    """Return the error for a store that another process is writing to."""
    return StoreError(f"Another extraction is writing to {store.path}: wait until it has ended.")


def feature_task(
    name: str,
    options: RepresentationOptions,
    image: ImageOptions,
    manifests: Mapping[Split, Manifest],
    store: Location,
    work: Location,
) -> FeatureTask:
    """Return the task of computing one feature; its fingerprint names its work folder."""
    if not options.storable:
        raise ConfigError(
            f"features.{name}: {options.kind!r} is random, so it cannot be stored; "
            "name it in the objective instead, where it is computed for every batch."
        )
    representation = options.build(image)
    fingerprint = fingerprint_of(options, representation.identity(), manifests)
    blank = representation.preparation(Image.new("RGB", (image.size, image.size)))
    width = representation(blank[None]).shape[1]
    if options.reduce.pca is not None and options.reduce.pca > width:
        raise ConfigError(
            f"features.{name}.reduce.pca: {options.reduce.pca} components are more than the "
            f"{width} numbers per image. Set it below {width}, or leave `reduce` out."
        )
    directory = work / f"{name}-{_short(fingerprint)}"
    return FeatureTask(name, options, width, store, directory, fingerprint)


def complete(
    features: Sequence[FeatureTask],
    manifests: Mapping[Split, Manifest],
    image: ImageOptions,
    shards: Location,
    options: ClusterOptions,
    progress: Progress,
) -> None:
    """Do the remaining work on unfinished features, and publish them."""
    total = sum(len(manifest.shards) for manifest in manifests.values())
    progress.start("start workers", 0, "")
    with cluster(options, shards=total, progress=progress) as running:
        for feature in features:
            prepare(
                feature,
                image=image,
                shards=shards,
                manifests=manifests,
                cluster=running,
                progress=progress,
            )
        done = {feature.name: feature.writer().done() for feature in features}
        pending = [
            Task(
                shards / split,
                (Span(number, 0, shard.samples),),
                image,
                tuple(missing),
                running.tasks_per_host,
                shard.samples - len(shard.invalid),
            )
            for split, manifest in manifests.items()
            for number, shard in enumerate(manifest.shards)
            if (missing := [f for f in features if (split, number) not in done[f.name]])
        ]
        names = ", ".join(feature.name for feature in features)
        count = sum(task.images for task in pending)
        progress.start(f"extract {names}", count, "images", step="extract")
        running.run(extract_shard, pending, progress)
        progress.start("stop workers", 0, "")
    progress.start("publish", 0, "")
    for feature in features:
        writer = feature.writer()
        writer.publish({**_recipe(feature, image), **writer.reduction()[1]["report"]})


def _recipe(feature: FeatureTask, image: ImageOptions) -> dict[str, Any]:
    """Return what is needed, besides the shards, to compute the feature again."""
    return {
        "options": feature.options.model_dump(mode="json"),
        "image": image.model_dump(mode="json"),
    }
