"""`mvmr extract-features`: compute every representation of every image, once."""

from pathlib import Path

from pipeline.extraction.cluster import ClusterOptions
from pipeline.extraction.run import extract
from pipeline.runtime import write_json
from pipeline.shards import read_manifests
from pipeline.store import FeatureStore
from pipeline.timing import timed
from stages.console import Screen
from stages.early import check_names
from stages.experiment import load
from stages.layout import dataset_layout
from stages.material import check_source, require_enough, require_files
from stages.result import Result, rows_table
from stages.store import FEATURE_COLUMNS, feature_values
from stages.summary import announce
from stages.times import feature_record


def extract_features(
    screen: Screen,
    *,
    config: Path,
    assignments: tuple[str, ...],
    data: str,
    only: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    force: bool,
) -> Result:
    """Compute the features of the experiment that the store lacks."""
    experiment = load(config, assignments)
    layout = dataset_layout(experiment.dataset.name, data)
    check_names("feature", only, experiment.features)
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
