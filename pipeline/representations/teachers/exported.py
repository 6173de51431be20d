"""Teachers from a `torch.export` file: any network, from any library."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from pipeline.base.digests import sha256_of
from pipeline.base.errors import ConfigError, WeightsError, WeightsMissingError
from pipeline.images.original_view import ImageOptions
from pipeline.representations.teachers.frozen import (
    FrozenTeacher,
    LibraryPreparation,
    LibraryTeacherOptions,
    Precision,
    Transform,
    in_mode,
    library_versions,
)

Side = Annotated[int, Field(ge=1, le=4096)]
Statistics = Annotated[tuple[float, ...], Field(strict=False, min_length=1, max_length=3)]


class ExportedOptions(LibraryTeacherOptions):
    """`program` maps (B, C, input_size, input_size) to (B, D) for any B, in evaluation mode.

    Images have as many channels as `mean`, 1 or 3. Their shorter side is resized to `resize`
    (by default `input_size`), and the centre is cropped. Loading a program can run code from it,
    so `trust: true` must confirm that its source is trusted.
    """

    kind: Literal["exported"] = "exported"
    program: Annotated[Path, Field(strict=False)]
    input_size: Side
    resize: Side | None = None
    mean: Statistics
    std: Statistics
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    precision: Precision = "float32"
    trust: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "ExportedOptions":
        if len(self.mean) != len(self.std) or len(self.mean) == 2:
            raise ValueError("mean and std need one number for each of 1 or 3 channels")
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        if self.resize is not None and self.resize < self.input_size:
            raise ValueError(f"resize must not be smaller than input_size ({self.input_size})")
        return self

    def build(self, image: ImageOptions) -> "ExportedTeacher":
        """Load the program; its images are prepared from the decoded file, not from `image`."""
        del image
        if not self.trust:
            raise ConfigError(
                f"Loading {str(self.program)!r} can run code from it; set `trust: true` if you "
                "trust its source."
            )
        network = _load(self.program)
        settings = {
            "size": self.input_size,
            "resize": self.resize or self.input_size,
            "mean": self.mean,
            "std": self.std,
            "interpolation": self.interpolation,
        }
        preparation, described = self.prepared(LibraryPreparation(_transform, settings))
        identity = {
            "kind": self.kind,
            "preprocessing": described,
            "weights": sha256_of(self.program),
            "libraries": library_versions(),
        }
        return ExportedTeacher(network, preparation, identity, self.precision)


class ExportedTeacher(FrozenTeacher):
    """A teacher whose network is an exported program, in the mode in which it was exported."""

    if_mixed: ClassVar[str] = "export its network in evaluation mode"
    if_not_taken: ClassVar[str] = "export a program with a dynamic first dimension"


class ExportedNetwork(nn.Module):
    """An exported program as a module that follows its images to their device.

    A program holds the device that it was exported on, also for the tensors that it creates.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self._program = program
        self._device: torch.device | None = None
        self.network = program.module()

    def train(self, mode: bool = True) -> Self:
        """Stay in the mode in which the program was exported, which cannot be changed."""
        del mode
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map prepared images (B, C, H, W) to vectors (B, D)."""
        if images.device != self._device:
            moved = move_to_device_pass(self._program, str(images.device))
            self.network, self._device = moved.module(), images.device
            self.network.requires_grad_(requires_grad=False)
        vectors: Tensor = self.network(images)
        return vectors


def _transform(settings: dict[str, Any]) -> Transform:
    from torchvision import transforms

    mode = "L" if len(settings["mean"]) == 1 else "RGB"
    interpolation = transforms.InterpolationMode(settings["interpolation"])
    prepare: Transform = transforms.Compose(
        [
            in_mode(mode),
            transforms.Resize(settings["resize"], interpolation=interpolation),
            transforms.CenterCrop(settings["size"]),
            transforms.ToTensor(),
            transforms.Normalize(settings["mean"], settings["std"]),
        ]
    )
    return prepare


def _load(path: Path) -> nn.Module:
    if not path.is_file():
        raise WeightsMissingError(f"There is no exported program {str(path)!r}.")
    try:
        return ExportedNetwork(torch.export.load(path))
    except Exception as error:  # a file that is not a program fails in many ways
        raise WeightsError(
            f"{str(path)!r} is not a program saved by torch.export.save: {error}."
        ) from error
