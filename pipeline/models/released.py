"""Weights in the layout that MV-MR's authors released, recognised by their names and shapes.

    self-supervised, distilled   encoder: backbone.* and projector.*; online_finetuner: weight, bias
    semi-supervised, VOC         encoder: the backbone alone; classifier: weight, bias

The backbone is named as torchvision's ResNet with an identity `fc`, or as the CIFAR ResNet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.base.errors import WeightsError
from pipeline.images.original_view import ImageOptions
from pipeline.models.cifar_resnet import CIFAR_RESNETS
from pipeline.models.encoder import IMAGENET_MEAN, IMAGENET_STD, outlined
from pipeline.models.student import TORCHVISION_RESNETS, StudentOptions

BACKBONE, PROJECTOR = "backbone.", "projector."
CLASSIFIERS = ("online_finetuner", "classifier")

# The original view of ImageNet in the released code.
IMAGENET = ImageOptions(size=224, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD)


@dataclass(frozen=True)
class ReleasedWeights:
    """The encoder's weights under our names, the widths of its projector, and a classifier."""

    encoder: Mapping[str, Tensor]
    projector: tuple[int, ...]
    classifier: Mapping[str, Tensor] | None


def read_released(content: Mapping[Any, Any], path: Path) -> ReleasedWeights:
    """Split a released file's content into its parts.

    Raises WeightsError that lists what is missing or unexpected.
    """
    unexpected = sorted(str(name) for name in content if name not in ("encoder", *CLASSIFIERS))
    if "encoder" not in content or unexpected:
        found = f"unexpected: {', '.join(unexpected[:5])}" if unexpected else "missing: encoder"
        raise WeightsError(
            f"{path} is neither a checkpoint that `mvmr train` wrote nor a released MV-MR file, "
            f"which holds encoder and one of {' or '.join(CLASSIFIERS)} ({found})."
        )
    encoder = _tensors(content["encoder"], "encoder", path)
    if not any(name.startswith(BACKBONE) for name in encoder):
        encoder = {BACKBONE + name: value for name, value in encoder.items()}
    matrices = [n for n, v in encoder.items() if n.startswith(PROJECTOR) and v.ndim == 2]
    classifier = None
    for name in CLASSIFIERS:
        if name in content:
            classifier = _tensors(content[name], name, path)
            if set(classifier) != {"weight", "bias"}:
                raise WeightsError(
                    f"{path}: {name} must hold weight and bias; found "
                    f"{', '.join(sorted(classifier)) or 'nothing'}."
                )
    widths = tuple(len(encoder[name]) for name in sorted(matrices, key=_layer))
    return ReleasedWeights(encoder, widths, classifier)


def _layer(name: str) -> int:
    """Return the number of a projector's layer: 3 of `projector.3.weight`."""
    number = name.split(".")[1]
    return int(number) if number.isdigit() else 0


def infer_student(weights: ReleasedWeights, path: Path) -> StudentOptions:
    """Return the student whose backbone has exactly these names and shapes.

    Weights do not show the strides, so these are the architecture's defaults. Raises
    WeightsError if there is no such student.
    """
    shapes = {n: v.shape for n, v in weights.encoder.items() if n.startswith(BACKBONE)}
    first = weights.encoder.get("backbone.conv1.weight")
    if first is not None and first.ndim == 4:
        stem = "7x7" if first.shape[-1] == 7 else "3x3"
        for name in (*TORCHVISION_RESNETS, *CIFAR_RESNETS):
            if name in CIFAR_RESNETS and stem == "7x7":
                continue
            options = StudentOptions.model_validate(
                {"architecture": name, "stem": stem, "projector": weights.projector}
            )
            if _shapes(options, first.shape[1]) == shapes:
                return options
    raise WeightsError(
        f"{path}: the backbone's {len(shapes)} tensors are those of no known architecture; use "
        "--config to name an experiment that has this `student`."
    )


def _shapes(options: StudentOptions, channels: int) -> dict[str, Any]:
    bare = options.model_copy(update={"projector": ()})
    network = outlined(bare, channels=channels, size=32)
    return {name: value.shape for name, value in network.state_dict().items()}


def _tensors(value: Any, name: str, path: Path) -> dict[str, Tensor]:
    tensors = isinstance(value, Mapping) and all(isinstance(v, Tensor) for v in value.values())
    if not tensors:
        raise WeightsError(f"{path}: {name} must hold named tensors; found {type(value).__name__}.")
    return {str(key): tensor for key, tensor in value.items()}
