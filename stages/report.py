"""`mvmr report`: one HTML page about a run, or about several beside each other."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.checkpoints import BEST
from pipeline.errors import ConfigError, DataError
from pipeline.reporting import Run, render_comparison, render_report, run_from_json
from pipeline.runtime import atomic_path, sha256_of, write_json
from stages.console import Screen
from stages.experiment import load
from stages.layout import comparison_page, dataset_layout, run_layout
from stages.reported import gather, per_image
from stages.result import Result, follow, megabytes
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
    if len(runs) == 1:
        raise ConfigError("Comparing needs two runs or more; name none for the active one.")
    if runs:
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
    return _written(page, path, follow(["mvmr", "export"], config, assignments))


def _written(page: str, path: Path, following: Sequence[str]) -> Result:
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    size = path.stat().st_size
    return Result(
        {"report": str(path), "bytes": size}, [f"{path} ({megabytes(size)} MB)"], following
    )


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
    return replace(run, per_image=per_image(layout, run.metrics))
