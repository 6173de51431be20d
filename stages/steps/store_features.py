"""Computing the features of an experiment that the store of its data set lacks."""

from collections.abc import Mapping
from dataclasses import replace

from pipeline.base.atomic import write_json
from pipeline.base.errors import ConfigError, StoreError
from pipeline.base.progress import Progress
from pipeline.base.timing import timed
from pipeline.datasets.source import Split
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.putting import GIVEN, kind_of
from pipeline.features.store import FeatureStore, StoredFeature
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.manifest import Manifest, read_manifests
from stages.experiment.paths import DatasetLayout, other_stores
from stages.experiment.requirements import require_files
from stages.experiment.time_records import feature_record


def store_features(
    wanted: Mapping[str, RepresentationOptions],
    image: ImageOptions,
    layout: DatasetLayout,
    progress: Progress,
    *,
    cluster: ClusterOptions,
    beside: Mapping[str, RepresentationOptions] | None = None,
    force: bool = False,
) -> dict[str, StoredFeature]:
    """Compute what the store lacks of the wanted features, and return them all.

    If anything is computed, so is what it lacks of those `beside` them, for which a later call then
    finds the rows; their images are decoded once for all. What was handed over in memory is
    computed in this process. Raises WeightsMissingError if a file is missing that a feature needs
    which is not stored, StoreError if rows were to be put there.
    """
    store, manifests = FeatureStore(layout.features), read_manifests(layout.shards)
    lacking = {
        name: options
        for name, options in wanted.items()
        if force or not _seems_stored(store, name, options, image, manifests)
    }
    require_files(lacking)
    _require_computable(lacking)
    if not force:
        _require_not_given(store, lacking)
    # What is stored, and cannot be built everywhere, is compared by its options alone.
    computed = {
        name: options
        for name, options in wanted.items()
        if name in lacking or (options.computable and not options.in_this_process_only)
    }
    others = {
        name: options
        for name, options in (beside or {}).items()
        if name not in wanted and options.computable and not options.in_this_process_only
        if not _seems_stored(store, name, options, image, manifests)
    }
    times, begun = (
        [feature_record(layout, name, options, image, manifests) for name, options in group.items()]
        for group in (lacking, others if lacking else {})
    )
    if not times:
        progress.note("All of these features are stored; --force computes them again.")
    with timed(times, progress, begun=begun) as timing:
        extract(
            computed,
            image=image,
            shards=layout.shards,
            store=store,
            work=layout.work,
            options=_where(lacking, cluster),
            progress=timing,
            others=[FeatureStore(place) for place in other_stores(layout)],
            beside=others,
            force=force,
        )
    features = {name: store[name] for name in wanted}
    for name, feature in features.items():
        write_json(layout.fidelity / f"{name}.json", feature.report["fidelity"])
    return features


def _require_computable(lacking: Mapping[str, RepresentationOptions]) -> None:
    for name, options in lacking.items():
        if not options.computable:
            raise StoreError(
                f"The feature {name!r} is not stored as the experiment says, and cannot be "
                "computed here: put its rows into the store by mvmr.FeatureStore(path).put(...)."
            )


def _require_not_given(store: FeatureStore, lacking: Mapping[str, RepresentationOptions]) -> None:
    """Raise StoreError if a feature would take the place of rows that cannot be computed again."""
    for name in lacking:
        if _is_given(store, name):
            raise StoreError(
                f"{name!r} holds rows that were put there, whose place this feature would take: "
                f"name it otherwise, or run `mvmr extract-features --only {name} --force`, which "
                "keeps them as superseded."
            )


def _is_given(store: FeatureStore, name: str) -> bool:
    try:
        return bool(kind_of(store[name]) == GIVEN)
    except StoreError:  # there is none, or it is damaged
        return False


def _where(lacking: Mapping[str, RepresentationOptions], cluster: ClusterOptions) -> ClusterOptions:
    """Return the cluster, or a thread of this process if other processes cannot compute a row."""
    local = [name for name, options in lacking.items() if options.in_this_process_only]
    if local and cluster.scheduler is not None:
        raise ConfigError(
            f"{', '.join(local)} was handed over in memory, and workers of {cluster.scheduler} "
            "cannot build it: leave the scheduler out, or name importable code in the experiment."
        )
    return replace(cluster, here=True) if local else cluster


def _seems_stored(
    store: FeatureStore,
    name: str,
    options: RepresentationOptions,
    image: ImageOptions,
    manifests: Mapping[Split, Manifest],
) -> bool:
    """Whether a feature was made with these options, so far as is known without its weights."""
    try:
        found = store[name]
    except StoreError:
        return False
    asked = {"options": options.model_dump(mode="json")}
    if options.computable:
        asked["image"] = image.model_dump(mode="json")
    made_from = {split: manifest.digest for split, manifest in manifests.items()}
    return found.fingerprint["shards"] == made_from and asked.items() <= found.report.items()
