"""Writing the page about a run, and its content for pages that compare runs."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.base.atomic import atomic_path, write_json
from pipeline.base.progress import Progress
from pipeline.reporting import RunFacts, render_report
from stages.experiment.paths import DatasetLayout, RunLayout
from stages.experiment.report_content import gather
from stages.experiment.schema import Experiment


def write_report(
    experiment: Experiment,
    file: str,
    assignments: Sequence[str],
    stored: DatasetLayout,
    layout: RunLayout,
    progress: Progress,
    *,
    path: Path,
) -> RunFacts:
    """Write the page about a finished run to `path`, and return its facts.

    `file` is the text of the experiment file, and `assignments` its overrides, for the page.
    Raises DataError if the run has not been trained, or if its images or features have changed.
    """
    found = gather(experiment, file, assignments, layout, stored, progress)
    write_page(render_report(found, progress), path)
    write_json(layout.record, found.run.to_json())
    return found.run


def write_page(page: str, path: Path) -> None:
    """Write an HTML page at once."""
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
