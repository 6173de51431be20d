"""The encoder that a run starts from: untrained, pretrained, of another run, or of a library."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.base.errors import WeightsError
from pipeline.base.progress import Progress
from pipeline.images.original_view import ImageOptions
from pipeline.models.checkpoint import Checkpoint, load_checkpoint
from pipeline.models.encoder import Encoder, build_encoder, load_pretrained, load_weights
from pipeline.models.student import PRETRAINED, StudentOptions
from pipeline.representations.teachers.frozen import read_state

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
    """Build a student: initialised by `seed`, pretrained by timm, or from the file `weights`.

    The file is a checkpoint, or a state dict of the network as timm or torchvision name it, whose
    classifier is left out. The backbone is loaded completely or not at all. If the file holds no
    projector, or one of another shape, the projector is initialised, and a note says so. Raises
    WeightsError if the backbone does not fit.
    """
    encoder = build_encoder(student, channels=image.channels, size=image.size, seed=seed)
    if student.weights == PRETRAINED:
        load_pretrained(encoder, student, channels=image.channels, size=image.size)
        return encoder
    if weights is None:
        return encoder
    if (state := _network_state(weights)) is not None:
        known = _without_classifier(state, encoder.backbone.state_dict())
        _load(encoder.backbone, known, weights, student)
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
    _load(encoder, found, weights, student)
    return encoder


def _load(
    module: nn.Module, state: Mapping[str, Tensor], weights: Path, student: StudentOptions
) -> None:
    try:
        load_weights(module, state)
    except WeightsError as error:
        raise WeightsError(f"{weights}, for {student.architecture}: {error}") from error


def given_checkpoint(
    student: StudentOptions, image: ImageOptions, weights: Path | None, *, progress: Progress
) -> Checkpoint:
    """Return the checkpoint, for `image`, of a student that is used without training."""
    encoder = initial_encoder(student, image, weights, seed=0, progress=progress)
    ours = weights is not None and _network_state(weights) is None
    origin = load_checkpoint(weights, remedy=REMEDY) if weights and ours else None
    about = {
        **(origin.about if origin else {}),
        "selection": {"epoch": 0, "rule": "given", "score": None},
        "weights": student.weights,
    }
    state = dict(encoder.state_dict())
    return Checkpoint(student, image, state, origin.probe if origin else None, about)


def _network_state(path: Path) -> dict[str, Tensor] | None:
    """Return the state dict that a file holds of a network alone; None if it is a checkpoint."""
    if path.suffix == ".safetensors":
        return read_state(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
        return None  # reading it as a checkpoint says what is wrong
    ours = not isinstance(content, dict) or not {"about", "encoder"}.isdisjoint(content)
    return None if ours else read_state(path)


def _without_classifier(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state without the layer that a network has and its backbone lacks, if it is one."""
    more = [name for name in state if name not in own]
    layers = {name.rpartition(".")[0] for name in more}
    if len(layers) != 1 or any(state[name].ndim > 2 for name in more):
        return state
    return {name: value for name, value in state.items() if name in own}
