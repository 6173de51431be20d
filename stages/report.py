"""`mvmr report`: one HTML page about a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.reporting import Report, read_curves, render
from pipeline.runtime import atomic_path
from pipeline.store import FeatureStore
from stages.console import Screen
from stages.experiment import Experiment, load
from stages.layout import dataset_layout, run_layout
from stages.result import Result, follow, megabytes
from stages.store import FEATURE_COLUMNS, feature_values
from stages.summary import announce


def report(screen: Screen, *, config: Path, assignments: tuple[str, ...]) -> Result:
    """Write runs/NAME/report.html: metrics, curves, what was cached, the configuration."""
    experiment = load(config, assignments)
    layout = run_layout(experiment.name)
    if not layout.curves.exists():
        raise DataError(f"There is no finished run in {layout.root}: run `mvmr train`.")
    announce(screen, "report", experiment, reads=[layout.root], writes=[layout.report])
    screen.progress.start("draw", 0, "")
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
    size = layout.report.stat().st_size
    shown = [f"{layout.report} ({megabytes(size)} MB)"]
    following = follow(["mvmr", "export"], config, assignments)
    return Result({"report": str(layout.report), "bytes": size}, shown, following)


def _metrics(directory: Path, experiment: Experiment) -> dict[str, Mapping[str, Any]]:
    """Read the metrics of the protocols that the experiment names, and of training."""
    names = ["training", *experiment.evaluate]
    paths = {name: directory / f"{name}.json" for name in names}
    return {n: json.loads(p.read_text(encoding="utf-8")) for n, p in paths.items() if p.exists()}


def _features(experiment: Experiment) -> list[dict[str, str]]:
    store = FeatureStore(dataset_layout(experiment.dataset.name).features)
    return [
        {column.head: column.show(values[column.key]) for column in FEATURE_COLUMNS}
        for values in (feature_values(store[name]) for name in experiment.features)
    ]
