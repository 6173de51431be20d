"""`mvmr embed`: embeddings of any images, for those who just want to use an encoder."""

from pathlib import Path

import click

from pipeline.checkpoints import BEST
from pipeline.embedding import embed, find_images
from pipeline.errors import ConfigError
from pipeline.exporting import card_of
from pipeline.ready import ReadyEncoder, load_encoder
from pipeline.runtime import device_from
from stages.console import ConsoleProgress
from stages.experiment import load
from stages.layout import run_layout
from stages.options import console, experiment_options


@click.command("embed")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@experiment_options
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A checkpoint, or a released MV-MR file, instead of the run's best checkpoint.",
)
@click.option(
    "--exported",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file that `mvmr export` wrote, with its card beside it; needs no config.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("embeddings.npz"),
    show_default=True,
    help="An .npz file (names, embeddings), or .parquet (name, embedding).",
)
def command(
    images: tuple[Path, ...],
    config: Path,
    assignments: tuple[str, ...],
    quiet: bool,
    checkpoint: Path | None,
    exported: Path | None,
    output: Path,
) -> None:
    """Write the embeddings of IMAGES, files or folders, with their names."""
    if checkpoint and exported:
        raise ConfigError("Name either --checkpoint or --exported, not both.")
    found = find_images(images)
    encoder = _encoder(config, assignments, checkpoint, exported)
    screen = console(quiet=quiet)
    with ConsoleProgress(screen) as progress:
        width = embed(found, encoder, output, device=device_from("auto"), progress=progress)
    image = encoder.preprocessing.image
    screen.print(
        f"{output}: {len(found)} embeddings of {width} numbers, of images resized to "
        f"{image.resize or image.size} and cut to {image.size} pixels"
    )


def _encoder(
    config: Path,
    assignments: tuple[str, ...],
    checkpoint: Path | None,
    exported: Path | None,
) -> ReadyEncoder:
    if exported is not None:
        if not card_of(exported).exists():
            raise ConfigError(
                f"{exported} has no card {card_of(exported).name} beside it, which says what it "
                "is: name a file that `mvmr export` wrote, or use --checkpoint."
            )
        return load_encoder(exported)
    if checkpoint is not None and not config.exists():
        return load_encoder(checkpoint)
    experiment = load(config, assignments)
    path = checkpoint or run_layout(experiment.name).checkpoints / BEST
    return load_encoder(path, student=experiment.student, image=experiment.dataset.image)
