"""A trained encoder from a file."""

from collections.abc import Mapping
from os import fspath
from pathlib import Path
from typing import Any

from torch import nn

from mvmr.arrays import PathText
from mvmr.public_calls import public
from pipeline.base.options import checked_by
from pipeline.images.original_view import ImageOptions
from pipeline.models.ready_encoder import ReadyEncoder
from pipeline.models.ready_encoder import load_encoder as load_from_file
from pipeline.models.student import StudentOptions


@public
def load_encoder(
    path: PathText,
    *,
    backbone: nn.Module | None = None,
    student: StudentOptions | Mapping[str, Any] | None = None,
    image: ImageOptions | None = None,
) -> ReadyEncoder:
    """Load an encoder: a checkpoint, a released MV-MR file, or an export with its card.

    Returns `module`, in evaluation mode on the CPU, which maps images (B, C, size, size) to (B, D),
    and `preprocessing`, which prepares an image. A student of your own needs its network as
    `backbone`; a copy of it gets the weights. Released files do not say what they are of, which
    `student` and `image` do. Raises WeightsError if the file is none of these, or does not fit.
    """
    options = checked_by(StudentOptions, student, "student") if student is not None else None
    return load_from_file(Path(fspath(path)), student=options, image=image, backbone=backbone)
