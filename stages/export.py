"""`mvmr export`: write the trained backbone for other programs."""

import json
from pathlib import Path
from typing import Any

import click

from pipeline.checkpoints import BEST, load_checkpoint
from pipeline.exporting import FORMATS, export
from pipeline.runtime import sha256_of
from stages.experiment import Experiment, load
from stages.layout import run_layout
from stages.options import console, experiment_options


@click.command("export")
@experiment_options
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    default="safetensors",
    show_default=True,
    help="safetensors, onnx, released: any student; torchvision: its ResNets, loadable there "
    "with fc = Identity; timm: those and timm's own.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Export this file, which may be a released one, instead of the run's best checkpoint.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False))
def command(
    config: Path,
    assignments: tuple[str, ...],
    quiet: bool,
    form: str,
    checkpoint: Path | None,
    output: Path | None,
) -> None:
    """Write the backbone's weights, and a JSON card: architecture, preprocessing, how to load."""
    experiment = load(config, assignments)
    layout = run_layout(experiment.name)
    source = checkpoint or layout.checkpoints / BEST
    trained = load_checkpoint(source, student=experiment.student, image=experiment.dataset.image)
    path = output or layout.exports / f"{experiment.name}.{FORMATS[form].ending}"
    scores = _scores(experiment, sha256_of(source))
    card = export(trained, path, form=form, source=source, metrics=scores)
    console(quiet=quiet).print(f"{path} and its card {card}")


def _scores(experiment: Experiment, checkpoint: str) -> dict[str, Any]:
    """Return the main figure of each protocol that has scored this very checkpoint."""
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
