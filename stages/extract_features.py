"""`mvmr extract-features`: compute every representation of every image, once."""

from pathlib import Path

import click

from pipeline.errors import ConfigError, unknown_name
from pipeline.extraction.run import ClusterOptions, extract
from pipeline.runtime import write_json
from pipeline.store import FeatureStore
from stages.console import ConsoleProgress
from stages.experiment import load
from stages.layout import dataset_layout
from stages.options import console, experiment_options
from stages.store import feature_table


@click.command("extract-features")
@experiment_options
@click.option("--only", multiple=True, metavar="NAME", help="Extract this feature; repeatable.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Local worker processes.  [default: one a core, fewer for few images]",
)
@click.option("--scheduler", metavar="ADDRESS", help="Use a running Dask scheduler, tcp://...")
@click.option("--force", is_flag=True, help="Recompute features that were made otherwise.")
def command(
    config: Path,
    assignments: tuple[str, ...],
    quiet: bool,
    only: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    force: bool,
) -> None:
    """Compute the features of the experiment that the store lacks."""
    experiment = load(config, assignments)
    layout, screen = dataset_layout(experiment.dataset.name), console(quiet=quiet)
    for name in only:
        if name not in experiment.features:
            raise ConfigError(unknown_name("feature", name, experiment.features))
    wanted = {n: f for n, f in experiment.features.items() if not only or n in only}
    if not wanted:
        screen.print("The experiment stores no features: there is nothing to extract.")
        return
    with ConsoleProgress(screen) as progress:
        features = extract(
            wanted,
            image=experiment.dataset.image,
            shards=layout.shards,
            store=FeatureStore(layout.features),
            work=layout.work,
            cluster=ClusterOptions(workers, scheduler),
            progress=progress,
            force=force,
        )
    for name, feature in features.items():
        fidelity = {k: v for k, v in feature.report["fidelity"].items() if v is not None}
        write_json(layout.fidelity / f"{name}.json", fidelity)
    screen.print(feature_table(layout.features, list(features.values())))
