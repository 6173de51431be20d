"""`mvmr export`: write the trained backbone for other programs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from pipeline.models.checkpoint import BEST
from pipeline.models.exporting import FORMATS, card_of, int8_path
from pipeline.reporting.int8_panel import compared
from stages.experiment.chosen import Chosen
from stages.experiment.paths import dataset_layout, run_layout
from stages.steps.export_backbone import export_backbone
from stages.steps.export_int8 import export_int8
from stages.terminal.announcement import announce
from stages.terminal.console import Screen, table
from stages.terminal.result import Result, megabytes


def export(
    screen: Screen,
    *,
    chosen: Chosen,
    data: str,
    form: str,
    int8: bool,
    checkpoint: Path | None,
    output: Path | None,
) -> Result:
    """Write the backbone's weights, and a JSON card: architecture, preprocessing, how to load."""
    experiment, layout = chosen.experiment, run_layout(chosen.experiment.name)
    source = checkpoint or layout.checkpoints / BEST
    path = output or layout.export(experiment.name, FORMATS[form].ending)
    stored = dataset_layout(experiment.dataset.name, data)
    announce(
        screen,
        f"export {form}{', int8' if int8 else ''}",
        experiment,
        reads=[source, stored.shards, stored.features] if int8 else [source],
        writes=[path, int8_path(path)] if int8 else [path],
        student=True,
    )
    screen.progress.start(f"write {form}", 0, "")
    if not int8:
        export_backbone(experiment, layout, form=form, path=path, checkpoint=checkpoint)
        return _written(form, path)
    target, comparison = export_int8(
        experiment, stored, layout, screen.progress, path=path, checkpoint=checkpoint
    )
    of_run = checkpoint is None and output is None
    return _written(form, target, path, comparison=comparison, on_page=of_run)


def _written(
    form: str,
    path: Path,
    *beside: Path,
    comparison: Mapping[str, Any] | None = None,
    on_page: bool = False,
) -> Result:
    """Return what was written; the first file is the one that was asked for.

    `on_page` says that the run's page, if it is written again, shows the comparison.
    """
    size = path.stat().st_size
    values = {"format": form, "file": str(path), "card": str(card_of(path)), "bytes": size}
    shown: list[str | Table] = [
        f"{file} ({megabytes(file.stat().st_size)} MB) and its card {card_of(file)}"
        for file in (path, *beside)
    ]
    if comparison is not None:
        values["comparison"] = comparison
        found = compared(comparison)
        shown += [table("float and int8", ["", "float", "int8"], found.rows), found.verdict]
    use = ["mvmr", "embed", "IMAGES", "--checkpoint", str(path)]
    if on_page:
        return Result(values, shown, ["mvmr", "report"], afterwards=use)
    return Result(values, shown, use)
