"""`mvmr report`: one HTML page about a run, or about several beside each other."""

from pathlib import Path

from pipeline.reporting import render_report
from pipeline.runtime import atomic_path, write_json
from stages.console import Screen
from stages.experiment import load
from stages.layout import dataset_layout, run_layout
from stages.reported import gather
from stages.result import Result, follow, megabytes
from stages.summary import announce


def report(screen: Screen, *, config: Path, assignments: tuple[str, ...], data: str) -> Result:
    """Write runs/NAME/report.html: what was done, how good it is, whether to trust it."""
    experiment = load(config, assignments)
    layout = run_layout(experiment.name)
    stored = dataset_layout(experiment.dataset.name, data)
    announce(
        screen,
        "report",
        experiment,
        data=stored,
        reads=[layout.root, stored.shards, stored.features],
        writes=[layout.report],
        student=True,
    )
    file = config.read_text(encoding="utf-8")
    found = gather(experiment, file, layout, stored, screen.progress)
    page = render_report(found, screen.progress)
    with atomic_path(layout.report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_json(layout.record, found.run.to_json())
    size = layout.report.stat().st_size
    shown = [f"{layout.report} ({megabytes(size)} MB)"]
    following = follow(["mvmr", "export"], config, assignments)
    return Result({"report": str(layout.report), "bytes": size}, shown, following)
