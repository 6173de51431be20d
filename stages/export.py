"""`mvmr export`: write the trained backbone for other programs."""

from pathlib import Path

from pipeline.models.checkpoint import BEST
from stages.experiment.chosen import Chosen
from stages.experiment.paths import run_layout
from stages.steps.export_backbone import export_backbone, export_path
from stages.terminal.announcement import announce
from stages.terminal.console import Screen
from stages.terminal.result import Result, megabytes


def export(
    screen: Screen,
    *,
    chosen: Chosen,
    form: str,
    checkpoint: Path | None,
    output: Path | None,
) -> Result:
    """Write the backbone's weights, and a JSON card: architecture, preprocessing, how to load."""
    experiment = chosen.experiment
    layout = run_layout(experiment.name)
    source, path = (
        checkpoint or layout.checkpoints / BEST,
        output or export_path(experiment, layout, form),
    )
    announce(screen, f"export {form}", experiment, reads=[source], writes=[path], student=True)
    screen.progress.start(f"write {form}", 0, "")
    card = export_backbone(experiment, layout, form=form, path=path, checkpoint=source)
    size = path.stat().st_size
    values = {"format": form, "file": str(path), "card": str(card), "bytes": size}
    following = ["mvmr", "embed", "IMAGES", "--exported", str(path)]
    return Result(values, [f"{path} ({megabytes(size)} MB) and its card {card}"], following)
