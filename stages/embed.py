"""`mvmr embed`: embed any images with a trained encoder."""

from pathlib import Path

from pipeline.base.devices import device_from
from pipeline.base.text import counted
from pipeline.models import embedding
from pipeline.models.checkpoint import BEST
from pipeline.models.embedding import find_images
from pipeline.models.exporting import card_of
from pipeline.models.ready_encoder import ReadyEncoder, load_encoder
from stages.experiment.chosen import Chosen
from stages.experiment.paths import run_layout
from stages.terminal.console import Screen
from stages.terminal.result import Result, left_out_lines, unlisted_lines


def embed(
    screen: Screen,
    *,
    images: tuple[Path, ...],
    chosen: Chosen,
    checkpoint: Path | None,
    output: Path,
    skip_unreadable: bool,
) -> Result:
    """Embed images, given as files or folders, and write the embeddings with their names."""
    progress = screen.progress
    progress.start("list images", 0, "")
    found = find_images(images)
    progress.start("load the encoder", 0, "")
    encoder = _encoder(chosen, checkpoint)
    done = embedding.embed(
        found.images,
        encoder,
        output,
        device=device_from("auto"),
        progress=progress,
        skip_unreadable=skip_unreadable,
    )
    image = encoder.preprocessing.image
    line = (
        f"{output}: {counted(done.images, 'embeddings')} of {done.width} numbers, of images "
        f"resized to {image.resize or image.size} and cropped to {image.size} pixels"
    )
    values = {
        "file": str(output),
        "images": done.images,
        "width": done.width,
        "size": image.size,
        "left_out": done.left_out,
        "others": dict(found.unlisted.others),
    }
    left_out = left_out_lines(done.left_out, len(found.images))
    return Result(values, [line, *left_out, *unlisted_lines(found.unlisted)])


def _encoder(chosen: Chosen, checkpoint: Path | None) -> ReadyEncoder:
    if checkpoint is not None and (card_of(checkpoint).exists() or not chosen.file.exists()):
        return load_encoder(checkpoint)
    experiment = chosen.experiment
    student, image = experiment.student, experiment.dataset.image
    if checkpoint is not None:  # the file describes itself, unless it is a released one
        return load_encoder(checkpoint, student=student, image=image)
    best = run_layout(experiment.name).checkpoints / BEST
    return load_encoder(best, student=student, image=image, strict=True)
