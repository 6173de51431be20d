"""`mvmr extract-features`: compute every representation of every image once."""

from collections.abc import Mapping

from pipeline.base.atomic import write_json
from pipeline.base.errors import StoreError
from pipeline.base.timing import timed
from pipeline.datasets.source import Split
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.store import FeatureStore
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.shards.manifest import Manifest, read_manifests
from stages.experiment.chosen import Chosen
from stages.experiment.dvc_links import run_by_dvc
from stages.experiment.dvc_lock import changed_by_hand
from stages.experiment.paths import dataset_layout, other_stores
from stages.experiment.requirements import require_enough, require_files
from stages.experiment.time_records import feature_record
from stages.terminal.announcement import announce
from stages.terminal.console import Screen
from stages.terminal.feature_table import FEATURE_COLUMNS, feature_values
from stages.terminal.result import Result, rows_table


def extract_features(
    screen: Screen,
    *,
    chosen: Chosen,
    data: str,
    only: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    batch_size: int | None,
    force: bool,
) -> Result:
    """Compute the experiment's features that are not in the store yet.

    As a stage of DVC, which asks for one feature at a time, it decodes the images once for all of
    them: the first stage computes what is missing, and each of the others publishes its feature.
    """
    experiment = chosen.experiment
    layout = dataset_layout(experiment.dataset.name, data)
    wanted = {n: f for n, f in experiment.features.items() if not only or n in only}
    following = ["mvmr", "train"]
    if not wanted:
        line = "The experiment stores no features: there is nothing to extract."
        return Result({"store": str(layout.features), "features": []}, [line], following)
    announce(
        screen,
        f"extract {', '.join(wanted)}",
        experiment,
        data=layout,
        reads=[layout.shards],
        writes=[layout.features / name for name in wanted],
        device=True,
    )
    image, store = experiment.dataset.image, FeatureStore(layout.features)
    manifests = read_manifests(layout.shards)
    require_enough(experiment, manifests["train"].valid)
    lacking = {
        name: options
        for name, options in wanted.items()
        if force or not _seems_stored(store, name, options, image, manifests)
    }
    beside = {
        name: options
        for name, options in experiment.features.items()
        if run_by_dvc() and name not in wanted
        if not _seems_stored(store, name, options, image, manifests)
    }
    require_files(lacking)
    times, begun = (
        [feature_record(layout, name, options, image, manifests) for name, options in group.items()]
        for group in (lacking, beside if lacking else {})
    )
    if not times:
        screen.progress.note("All of these features are stored; --force computes them again.")
    with timed(times, screen.progress, begun=begun) as progress:
        features = extract(
            wanted,
            image=image,
            shards=layout.shards,
            store=store,
            work=layout.work,
            options=ClusterOptions(workers, scheduler, batch_size),
            progress=progress,
            others=[FeatureStore(place) for place in other_stores(layout)],
            beside=beside,
            force=force,
        )
    for name, feature in features.items():
        write_json(layout.fidelity / f"{name}.json", feature.report["fidelity"])
    stages = [f"extract@{name}" for name in wanted]
    changed_by_hand(experiment, stages, screen.progress, data=data)
    rows = [feature_values(feature) for feature in features.values()]
    shown = [rows_table(str(layout.features), FEATURE_COLUMNS, rows)]
    return Result({"store": str(layout.features), "features": rows}, shown, following)


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
    asked = {"options": options.model_dump(mode="json"), "image": image.model_dump(mode="json")}
    made_from = {split: manifest.digest for split, manifest in manifests.items()}
    return found.fingerprint["shards"] == made_from and asked.items() <= found.report.items()
