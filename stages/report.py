"""`mvmr report`: one HTML page about a run, or about several beside each other."""

from pathlib import Path

import click

from pipeline.reporting import render_report
from pipeline.runtime import atomic_path, write_json
from stages.console import ConsoleProgress
from stages.experiment import load
from stages.layout import dataset_layout, run_layout
from stages.options import console, data_option, experiment_options
from stages.reported import gather


@click.command("report")
@experiment_options
@data_option
def command(
    config: Path,
    assignments: tuple[str, ...],
    quiet: bool,
    data: str,
) -> None:
    """Write runs/NAME/report.html: what was done, how good it is, whether to trust it."""
    screen = console(quiet=quiet)
    experiment = load(config, assignments)
    layout = run_layout(experiment.name)
    stored = dataset_layout(experiment.dataset.name, data)
    with ConsoleProgress(screen) as progress:
        file = config.read_text(encoding="utf-8")
        report = gather(experiment, file, layout, stored, progress)
        page = render_report(report, progress)
    _write(layout.report, page)
    write_json(layout.record, report.run.to_json())
    screen.print(f"{layout.report} ({len(page.encode()) / 1e6:.1f} MB)")


def _write(path: Path, page: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
