"""`mvmr report`: one HTML page about a run, or about several beside each other."""

import json
from pathlib import Path

import click

from pipeline.checkpoints import BEST
from pipeline.errors import DataError
from pipeline.reporting import Run, render_comparison, render_report, run_from_json
from pipeline.runtime import atomic_path, sha256_of, write_json
from stages.console import ConsoleProgress
from stages.experiment import load
from stages.layout import comparison_page, dataset_layout, run_layout
from stages.options import console, data_option, experiment_options
from stages.reported import gather


@click.command("report")
@click.argument("runs", nargs=-1, metavar="[RUN RUN ...]")
@experiment_options
@data_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the page goes.  [default: runs/NAME/report.html, or runs/comparison.html]",
)
def command(
    runs: tuple[str, ...],
    config: Path,
    assignments: tuple[str, ...],
    quiet: bool,
    data: str,
    output: Path | None,
) -> None:
    """Write a page about the active experiment, or compare the named RUNs.

    Runs that are compared must have a report of their own.
    """
    screen = console(quiet=quiet)
    if len(runs) == 1:
        raise click.UsageError("Comparing needs two runs or more; name none for the active one.")
    if runs:
        page, path = render_comparison(list(map(_read, runs))), output or comparison_page()
    else:
        experiment = load(config, assignments)
        layout = run_layout(experiment.name)
        stored = dataset_layout(experiment.dataset.name, data)
        file = config.read_text(encoding="utf-8")
        with ConsoleProgress(screen) as progress:
            report = gather(experiment, file, assignments, layout, stored, progress)
            page, path = render_report(report, progress), output or layout.report
        write_json(layout.record, report.run.to_json())
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    screen.print(f"{path} ({len(page.encode()) / 1e6:.1f} MB)")


def _read(name: str) -> Run:
    """Return what the report of a run recorded.

    Raises DataError if there is none, or the run has been trained again since.
    """
    layout = run_layout(name)
    try:
        run = run_from_json(json.loads(layout.record.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DataError(
            f"There is no report of a run {name!r} ({layout.record}): make it by `mvmr report` "
            "with its config."
        ) from None
    except ValueError as error:
        raise DataError(f"{layout.record} is damaged ({error}): run `mvmr report`.") from error
    best = layout.checkpoints / BEST
    if best.exists() and sha256_of(best) != run.student.sha256:
        raise DataError(f"The run {name!r} was trained again since its report: run `mvmr report`.")
    return run
