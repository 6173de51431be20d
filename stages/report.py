"""`mvmr report`: write one HTML page about a run, or a page that compares several."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.base.digests import sha256_of
from pipeline.base.errors import DataError
from pipeline.models.checkpoint import BEST
from pipeline.reporting import RunFacts, render_comparison, run_from_json
from pipeline.reporting.formats import duration
from pipeline.reporting.proposals import Proposal
from pipeline.reporting.summary import Summary, summary
from stages.experiment.chosen import Chosen
from stages.experiment.dvc_lock import changed_by_hand
from stages.experiment.paths import comparison_page, dataset_layout, run_layout
from stages.experiment.report_content import per_image
from stages.steps.write_report import write_page, write_report
from stages.terminal.announcement import announce
from stages.terminal.console import Screen
from stages.terminal.result import Result, megabytes


def report(
    screen: Screen,
    *,
    runs: tuple[str, ...],
    chosen: Chosen,
    data: str,
    output: Path | None,
) -> Result:
    """Write a page about the active experiment, or compare the named runs."""
    if runs:
        screen.progress.start("compare", 0, "")
        page = render_comparison([_read(name) for name in runs])
        path = output or comparison_page()
        write_page(page, path)
        return _told(path, ())
    experiment = chosen.experiment
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
    file = chosen.file.read_text(encoding="utf-8")
    run = write_report(
        experiment, file, chosen.assignments, stored, layout, screen.progress, path=path
    )
    result = _told(path, ["mvmr", "export"], told=summary(run, chosen.assignments))
    changed_by_hand(experiment, ["report"], screen.progress, data=data)
    return result


def _told(
    path: Path,
    following: Sequence[str],
    *,
    told: Summary | None = None,
) -> Result:
    """Return where the page is, and what a summary says in words."""
    size = path.stat().st_size
    values: dict[str, Any] = {"report": str(path), "bytes": size}
    shown = list[str]()
    if told is not None:
        values |= {"verdict": told.verdict, "proposals": [asdict(p) for p in told.proposals]}
        shown += [*told.verdict, *map(_proposed, told.proposals)]
    shown.append(f"Open {path} in a browser ({megabytes(size)} MB).")
    return Result(values, shown, following)


def _proposed(proposal: Proposal) -> str:
    cost = "" if proposal.seconds is None else f" (about {duration(proposal.seconds)})"
    return f"Try: {proposal.why} `{proposal.command}`{cost}"


def _read(name: str) -> RunFacts:
    """Return the run as its report recorded it.

    Raises DataError if the record is damaged, or the run has been trained again since.
    """
    layout = run_layout(name)
    try:
        run = run_from_json(json.loads(layout.record.read_text(encoding="utf-8")))
    except ValueError as error:
        raise DataError(f"{layout.record} is damaged ({error}): run `mvmr report`.") from error
    best = layout.checkpoints / BEST
    if best.exists() and sha256_of(best) != run.student.sha256:
        raise DataError(f"The run {name!r} was trained again after its report: run `mvmr report`.")
    return replace(run, per_image=per_image(layout, run.metrics))
