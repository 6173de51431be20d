"""`mvmr export`: write the trained backbone for other programs."""

from pathlib import Path

import click

from pipeline.checkpoints import BEST, load_checkpoint
from pipeline.exporting import FORMATS, export
from stages.experiment import load
from stages.layout import run_layout
from stages.options import console, experiment_options

ENDINGS = {"safetensors": "safetensors", "torchvision": "pth"}


@click.command("export")
@experiment_options
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    default="safetensors",
    show_default=True,
    help="safetensors: any student; torchvision: its ResNets, loadable there with fc = Identity.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Export this file instead of the run's best checkpoint.",
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
    """Write the backbone's weights, and a JSON card with architecture and preprocessing."""
    experiment = load(config, assignments)
    layout = run_layout(experiment.name)
    trained = load_checkpoint(checkpoint or layout.checkpoints / BEST, student=experiment.student)
    path = output or layout.root / f"{experiment.name}.{ENDINGS[form]}"
    card = export(trained, path, form=form)
    console(quiet=quiet).print(f"{path} and its card {card}")
