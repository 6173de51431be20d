"""`mvmr extract-features`: compute every representation of every image once."""

from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.shards.manifest import read_manifests
from stages.experiment.chosen import Chosen
from stages.experiment.dvc_links import run_by_dvc
from stages.experiment.dvc_lock import changed_by_hand
from stages.experiment.paths import dataset_layout
from stages.experiment.requirements import require_enough
from stages.steps.store_features import store_features
from stages.terminal import interruption
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
    require_enough(experiment, read_manifests(layout.shards)["train"].valid)
    with interruption.soon():
        features = store_features(
            wanted,
            experiment.dataset.image,
            layout,
            screen.progress,
            cluster=ClusterOptions(workers, scheduler, batch_size),
            beside=experiment.features if run_by_dvc() else {},
            force=force,
        )
    stages = [f"extract@{name}" for name in wanted]
    changed_by_hand(experiment, stages, screen.progress, data=data)
    rows = [feature_values(feature) for feature in features.values()]
    shown = [rows_table(str(layout.features), FEATURE_COLUMNS, rows)]
    return Result({"store": str(layout.features), "features": rows}, shown, following)
