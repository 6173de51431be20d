"""`mvmr report`: one HTML page about a run, or about several beside each other."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.checkpoints import BEST
from pipeline.errors import DataError
from pipeline.reporting import Run, render_comparison, render_report, run_from_json
from pipeline.runtime import atomic_path, sha256_of, write_json
from stages.console import Screen
from stages.early import check_runs
from stages.experiment import load
from stages.layout import comparison_page, dataset_layout, run_layout
from stages.reported import gather
from stages.result import Result, megabytes
from stages.summary import announce


def report(
    screen: Screen,
    *,
    runs: tuple[str, ...],
    config: Path,
    assignments: tuple[str, ...],
    data: str,
    output: Path | None,
) -> Result:
    """Write a page about the active experiment, or compare the named runs."""
    if runs:
        check_runs(runs)
        screen.progress.start("compare", 0, "")
        page = render_comparison([_read(name) for name in runs])
        return _written(page, output or comparison_page(), ())
    experiment = load(config, assignments)
    layout = run_layout(experiment.name)
    stored, path = dataset_layout(experiment.dataset.name, data), output or layout.report
    announce(
        screen,
        "report",
        experiment,
        data=stored,
        reads=[layout.root, stored.shards, stored.features],
        writes=[path],
        student=True,
    )
    file = config.read_text(encoding="utf-8")
    found = gather(experiment, file, assignments, layout, stored, screen.progress)
    page = render_report(found, screen.progress)
    write_json(layout.record, found.run.to_json())
    return _written(page, path, ["mvmr", "export"])


def _written(page: str, path: Path, following: Sequence[str]) -> Result:
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    size = path.stat().st_size
    return Result(
        {"report": str(path), "bytes": size}, [f"{path} ({megabytes(size)} MB)"], following
    )


def _read(name: str) -> Run:
    """Return what the report of a run recorded.

    Raises DataError if it is damaged, or the run has been trained again since.
    """
    layout = run_layout(name)
    try:
        run = run_from_json(json.loads(layout.record.read_text(encoding="utf-8")))
    except ValueError as error:
        raise DataError(f"{layout.record} is damaged ({error}): run `mvmr report`.") from error
    best = layout.checkpoints / BEST
    if best.exists() and sha256_of(best) != run.student.sha256:
        raise DataError(f"The run {name!r} was trained again since its report: run `mvmr report`.")
    return run
