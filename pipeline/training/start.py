"""The encoder that a run starts from: untrained, pretrained, or of another run."""

from pathlib import Path

from pipeline.base.progress import Progress
from pipeline.images.original_view import ImageOptions
from pipeline.models.checkpoint import Checkpoint, load_checkpoint
from pipeline.models.encoder import Encoder, build_encoder, load_pretrained, load_weights
from pipeline.models.student import PRETRAINED, StudentOptions

PROJECTOR = "projector."
REMEDY = "Set student.weights to a checkpoint's file or the name of a trained run, or leave it out."


def initial_encoder(
    student: StudentOptions,
    image: ImageOptions,
    weights: Path | None,
    *,
    seed: int,
    progress: Progress,
) -> Encoder:
    """Build a student: initialised by `seed`, pretrained by timm, or from the checkpoint `weights`.

    The backbone is loaded completely or not at all. If the file holds no projector, or one of
    another shape, the projector is initialised, and a note says so. Raises WeightsError if the
    backbone does not fit.
    """
    encoder = build_encoder(student, channels=image.channels, size=image.size, seed=seed)
    if student.weights == PRETRAINED:
        load_pretrained(encoder, student, channels=image.channels, size=image.size)
        return encoder
    if weights is None:
        return encoder
    found = dict(load_checkpoint(weights, remedy=REMEDY).encoder)
    own = encoder.state_dict()
    shapes, wanted = (
        {name: value.shape for name, value in state.items() if name.startswith(PROJECTOR)}
        for state in (found, own)
    )
    if shapes != wanted:
        progress.note(f"{weights}: the backbone is loaded, the projector is initialised.")
        found = {name: value for name, value in found.items() if not name.startswith(PROJECTOR)}
        found |= {name: value for name, value in own.items() if name.startswith(PROJECTOR)}
    load_weights(encoder, found)
    return encoder


def given_checkpoint(
    student: StudentOptions, image: ImageOptions, weights: Path | None, *, progress: Progress
) -> Checkpoint:
    """Return the checkpoint, for `image`, of a student that is used without training."""
    encoder = initial_encoder(student, image, weights, seed=0, progress=progress)
    origin = load_checkpoint(weights, remedy=REMEDY) if weights else None
    about = {
        **(origin.about if origin else {}),
        "selection": {"epoch": 0, "rule": "given", "score": None},
        "weights": student.weights,
    }
    state = dict(encoder.state_dict())
    return Checkpoint(student, image, state, origin.probe if origin else None, about)
