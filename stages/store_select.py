"""`mvmr store select`: record the fingerprints of the features that the experiment names."""

from pipeline.base.atomic import write_json
from pipeline.base.text import counted
from stages.experiment.chosen import Chosen
from stages.experiment.freshness import checked_features
from stages.experiment.paths import dataset_layout, run_layout
from stages.terminal.console import Screen
from stages.terminal.result import Result


def store_select(screen: Screen, *, chosen: Chosen, data: str) -> Result:
    """Check the experiment's shards and features, and record the features' fingerprints."""
    experiment = chosen.experiment
    layout, run = dataset_layout(experiment.dataset.name, data), run_layout(experiment.name)
    features = checked_features(experiment, experiment.features, layout, screen.progress)
    digests = {name: feature.digest for name, feature in sorted(features.items())}
    targets = {name: digest for name, digest in digests.items() if name in experiment.targets()}
    write_json(run.targets, targets)
    write_json(run.features, digests)
    return Result(
        {"experiment": experiment.name, "features": digests, "targets": list(targets)},
        [f"{counted(len(features), 'features')}: complete, and matching the config."],
        ["mvmr", "train"],
    )
