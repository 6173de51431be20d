"""`mvmr export`: write the trained backbone for other programs."""

import json
from pathlib import Path
from typing import Any

from pipeline.base.digests import sha256_of
from pipeline.models import exporting
from pipeline.models.checkpoint import BEST, load_checkpoint
from pipeline.models.exporting import FORMATS
from stages.experiment.chosen import Chosen
from stages.experiment.paths import run_layout
from stages.experiment.schema import Experiment
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
    source = checkpoint or layout.checkpoints / BEST
    trained = load_checkpoint(source, student=experiment.student, image=experiment.dataset.image)
    path = output or layout.exports / f"{experiment.name}.{FORMATS[form].ending}"
    announce(screen, f"export {form}", experiment, reads=[source], writes=[path], student=True)
    screen.progress.start(f"write {form}", 0, "")
    scores = _scores(experiment, sha256_of(source))
    card = exporting.export(trained, path, form=form, source=source, metrics=scores)
    size = path.stat().st_size
    values = {"format": form, "file": str(path), "card": str(card), "bytes": size}
    following = ["mvmr", "embed", "IMAGES", "--exported", str(path)]
    return Result(values, [f"{path} ({megabytes(size)} MB) and its card {card}"], following)


def _scores(experiment: Experiment, checkpoint: str) -> dict[str, Any]:
    """Return the main figure of each protocol that has scored exactly this checkpoint."""
    scores = {}
    for name in experiment.evaluate:
        path = run_layout(experiment.name).metrics / f"{name}.json"
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["checkpoint"]["sha256"] == checkpoint:
                main = record["main"]
                keys = (main, f"{main}_low", f"{main}_high", "split", "images")
                scores[name] = {key: record[key] for key in keys if key in record}
    return scores
