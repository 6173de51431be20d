"""The trained backbone as a file for other programs, with a card that says how to use it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.checkpoints import Checkpoint
from pipeline.encoders.options import TORCHVISION_RESNETS
from pipeline.errors import ConfigError
from pipeline.runtime import atomic_path, write_json

Weights = Mapping[str, Tensor]


def export(checkpoint: Checkpoint, path: Path, *, form: str) -> Path:
    """Write the backbone to `path` and its card to `path` with `.json` added; return the card.

    `form` is one of `FORMATS`. Raises ConfigError if the other library has no such network.
    """
    prefix = "backbone."
    weights = {
        name.removeprefix(prefix): value.contiguous()
        for name, value in checkpoint.encoder.items()
        if name.startswith(prefix)
    }
    with atomic_path(path) as temporary:
        FORMATS[form](checkpoint, weights, temporary)
    card = path.with_name(path.name + ".json")
    write_json(card, _card(checkpoint, weights, form))
    return card


def _safetensors(checkpoint: Checkpoint, weights: Weights, path: Path) -> None:
    metadata = {"architecture": checkpoint.student.architecture, "format": "pt"}
    save_file(dict(weights), path, metadata=metadata)


def _torchvision(checkpoint: Checkpoint, weights: Weights, path: Path) -> None:
    student = checkpoint.student
    if student.architecture not in TORCHVISION_RESNETS:
        raise ConfigError(
            f"torchvision has no {student.architecture!r}, only {', '.join(TORCHVISION_RESNETS)}: "
            "export it as safetensors."
        )
    if (
        student.stem not in (None, "7x7")
        or student.maxpool is False
        or checkpoint.image.channels != 3
    ):
        raise ConfigError(
            "torchvision's networks have a 7x7 stem with a max-pool, for 3 channels; this student "
            "has another: export it as safetensors."
        )
    torch.save(dict(weights), path)


FORMATS: dict[str, Callable[[Checkpoint, Weights, Path], None]] = {
    "safetensors": _safetensors,
    "torchvision": _torchvision,
}


def _card(checkpoint: Checkpoint, weights: Weights, form: str) -> dict[str, Any]:
    return {
        "format": form,
        "student": checkpoint.student.model_dump(mode="json"),
        "preprocessing": checkpoint.image.model_dump(mode="json"),
        "embedding_size": checkpoint.build().h_width,
        "tensors": len(weights),
        "training": dict(checkpoint.about),
    }
