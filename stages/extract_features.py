"""`mvmr extract-features`: compute every representation of every image, once."""

from pathlib import Path

import click

from pipeline.errors import ConfigError, unknown_name
from pipeline.extraction.cluster import ClusterOptions
from pipeline.extraction.run import extract
from pipeline.runtime import write_json
from pipeline.shards import read_manifests
from pipeline.store import FeatureStore
from pipeline.timing import timed
from stages.console import ConsoleProgress
from stages.experiment import load
from stages.layout import dataset_layout
from stages.material import check_source
from stages.options import console, data_option, experiment_options
from stages.store import feature_table
from stages.times import feature_record


@click.command("extract-features")
@experiment_options
@click.option("--only", multiple=True, metavar="NAME", help="Extract this feature; repeatable.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Local worker processes.  [default: one a core, fewer for few images]",
)
@click.option("--scheduler", metavar="ADDRESS", help="Use a running Dask scheduler, tcp://...")
@data_option
@click.option("--force", is_flag=True, help="Recompute features that were made otherwise.")
def command(
    config: Path,
    assignments: tuple[str, ...],
    quiet: bool,
    data: str,
    only: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    force: bool,
) -> None:
    """Compute the features of the experiment that the store lacks."""
    experiment = load(config, assignments)
    layout, screen = dataset_layout(experiment.dataset.name, data), console(quiet=quiet)
    for name in only:
        if name not in experiment.features:
            raise ConfigError(unknown_name("feature", name, experiment.features))
    wanted = {n: f for n, f in experiment.features.items() if not only or n in only}
    if not wanted:
        screen.print("The experiment stores no features: there is nothing to extract.")
        return
    image, store = experiment.dataset.image, FeatureStore(layout.features)
    manifests = read_manifests(layout.shards)
    records = [
        feature_record(layout, name, options, image, manifests)
        for name, options in wanted.items()
        if force or name not in store
    ]
    with ConsoleProgress(screen) as watched, timed(records, watched) as progress:
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
    screen.print(feature_table(layout.features, list(features.values())))
