"""`mvmr extract-features`: compute every representation of every image once."""

from pipeline.base.atomic import write_json
from pipeline.base.timing import timed
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.store import FeatureStore
from pipeline.shards.manifest import read_manifests
from stages.experiment.chosen import Chosen
from stages.experiment.freshness import check_source
from stages.experiment.paths import dataset_layout
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
    force: bool,
) -> Result:
    """Compute the experiment's features that are not in the store yet."""
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
    require_files({n: options for n, options in wanted.items() if force or n not in store})
    times = [
        feature_record(layout, name, options, image, manifests)
        for name, options in wanted.items()
        if force or name not in store
    ]
    if not times:
        screen.progress.note("All of these features are stored; --force computes them again.")
    with timed(times, screen.progress) as progress:
        check_source(experiment, layout, progress)
        features = extract(
            wanted,
            image=image,
            shards=layout.shards,
            store=store,
            work=layout.work,
            options=ClusterOptions(workers, scheduler),
            progress=progress,
            force=force,
        )
    for name, feature in features.items():
        write_json(layout.fidelity / f"{name}.json", feature.report["fidelity"])
    rows = [feature_values(feature) for feature in features.values()]
    shown = [rows_table(str(layout.features), FEATURE_COLUMNS, rows)]
    return Result({"store": str(layout.features), "features": rows}, shown, following)
