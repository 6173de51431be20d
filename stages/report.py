"""`mvmr report`: one HTML page about a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pipeline.errors import DataError
from pipeline.reporting import Report, read_curves, render
from pipeline.runtime import atomic_path
from pipeline.store import FeatureStore
from stages.experiment import Experiment, load
from stages.layout import dataset_layout, run_layout
from stages.options import console, experiment_options
from stages.store import feature_columns, feature_row


@click.command("report")
@experiment_options
def command(config: Path, assignments: tuple[str, ...], quiet: bool) -> None:
    """Write runs/NAME/report.html: metrics, curves, what was cached, the configuration."""
    experiment = load(config, assignments)
    layout = run_layout(experiment.name)
    if not layout.curves.exists():
        raise DataError(f"There is no finished run in {layout.root}: run `mvmr train`.")
    page = render(
        Report(
            name=experiment.name,
            metrics=_metrics(layout.metrics, experiment),
            curves=read_curves(layout.curves),
            features=_features(experiment),
            config=config.read_text(encoding="utf-8"),
        )
    )
    with atomic_path(layout.report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    console(quiet=quiet).print(f"{layout.report} ({len(page) / 1e6:.1f} MB)")


def _metrics(directory: Path, experiment: Experiment) -> dict[str, Mapping[str, Any]]:
    """Read the metrics of the protocols that the experiment names, and of training."""
    names = ["training", *experiment.evaluate]
    paths = {name: directory / f"{name}.json" for name in names}
    return {n: json.loads(p.read_text(encoding="utf-8")) for n, p in paths.items() if p.exists()}


def _features(experiment: Experiment) -> list[dict[str, str]]:
    store = FeatureStore(dataset_layout(experiment.dataset.name).features)
    return [
        dict(zip(feature_columns(), feature_row(store[name]), strict=True))
        for name in experiment.features
    ]
