"""Trained encoders, ready for use: from a checkpoint, or from an exported file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor, nn

from pipeline.base.errors import ArgumentError, DataError, WeightsError
from pipeline.images.cutting import original_view_of
from pipeline.images.decoding import opened
from pipeline.images.original_view import ImageOptions, normalise
from pipeline.images.reducing import ReductionOptions, reduced
from pipeline.models.checkpoint import Checkpoint, load_checkpoint
from pipeline.models.exporting import BACKBONE, CARDED, card_of
from pipeline.models.onnx_file import OnnxModule
from pipeline.models.student import StudentOptions
from pipeline.representations.teachers.frozen import read_state


@dataclass(frozen=True)
class Preprocessing:
    """Turns an image into the encoder's input: upright, resized, cropped, normalised.

    With `reduction`, a larger file is first stored smaller, as the images of training were.
    """

    image: ImageOptions
    reduction: ReductionOptions | None = None

    def __call__(self, image: Image.Image | Path | str | bytes) -> Tensor:
        """Return (C, size, size), float32, from an open image, a path, or the bytes of a file.

        Raises ArgumentError for anything else, DataError for a file that is no image.
        """
        if isinstance(image, str | Path):
            image = _content(Path(image))
        if isinstance(image, bytes):
            image = reduced(image, self.reduction) or image
        elif not isinstance(image, Image.Image):
            raise ArgumentError(
                "An image to prepare is a path, a PIL image, or the bytes of a file; found "
                f"{type(image).__name__}. PIL.Image.fromarray makes one of a uint8 array (H, W, 3)."
            )
        return normalise(original_view_of(opened(image), self.image), self.image)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"The image {str(path)!r} cannot be read: {error.strerror}.") from error


class ReadyEncoder(NamedTuple):
    """`module` maps images (B, C, size, size) to (B, D); `preprocessing` prepares the images."""

    module: nn.Module
    preprocessing: Preprocessing


def load_encoder(
    path: Path | str,
    *,
    student: StudentOptions | None = None,
    image: ImageOptions | None = None,
    backbone: nn.Module | None = None,
    strict: bool = False,
) -> ReadyEncoder:
    """Load an encoder: a checkpoint, a released MV-MR file, or an export with its card.

    The module is in evaluation mode, on the CPU. `student` and `image` are for released files;
    with `strict`, a checkpoint that differs from them is refused: see
    `pipeline.models.checkpoint.load_checkpoint`. A student of the user's own code needs its network
    as `backbone`; a copy of it gets the weights. Raises WeightsError.
    """
    path = Path(path)
    if not card_of(path).exists():
        if path.suffix in CARDED and path.exists():
            raise WeightsError(
                f"{path} has no card {card_of(path).name} beside it, which says how to prepare "
                "images: keep both files that `mvmr export` wrote together, or export again."
            )
        checkpoint = load_checkpoint(
            path, student=student, image=image, network=backbone, strict=strict
        )
        preprocessing = Preprocessing(checkpoint.image, _reduction(checkpoint.about))
        return ReadyEncoder(checkpoint.build().backbone, preprocessing)
    card = _read_card(card_of(path))
    image = ImageOptions.model_validate(card["preprocessing"])
    preprocessing = Preprocessing(image, _reduction(card.get("training", {})))
    if card["format"] == "onnx":
        return ReadyEncoder(OnnxModule(path), preprocessing)
    own = StudentOptions.model_validate({**card["student"], "trust": False})
    if card["format"] == "released":
        released = load_checkpoint(path, student=own, image=image, network=backbone)
        trained = replace(released, about=card.get("training", {}))
        return ReadyEncoder(trained.build().backbone, preprocessing)
    weights = {f"{BACKBONE}{name}": value for name, value in read_state(path).items()}
    bare = own.model_copy(update={"projector": ()})
    about = card.get("training", {})
    exported = Checkpoint(bare, image, weights, None, about, network=backbone)
    return ReadyEncoder(exported.build().backbone, preprocessing)


def _reduction(training: Mapping[str, Any]) -> ReductionOptions | None:
    """Return how the images of training were stored, by what a checkpoint or a card says of it."""
    recorded = training.get("reduction")
    return ReductionOptions.model_validate(recorded) if recorded else None


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not {"format", "student", "preprocessing"} <= card.keys():
            raise ValueError("format, student or preprocessing is missing")
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"The card {path} cannot be read ({error}): export again.") from error
    return card
