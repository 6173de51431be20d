"""The trained backbone as a file for other programs, with a card that says how to use it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.base.atomic import atomic_path, write_json
from pipeline.base.digests import sha256_of
from pipeline.base.errors import ConfigError
from pipeline.images.original_view import ImageOptions
from pipeline.models.checkpoint import Checkpoint
from pipeline.models.onnx_file import quantise, write_onnx
from pipeline.models.student import TIMM_PREFIX, TORCHVISION_RESNETS

Weights = Mapping[str, Tensor]

BACKBONE = "backbone."
CARDED = (".onnx", ".safetensors")  # endings of files that are never checkpoints
TRY_INSTEAD = "export it as safetensors, onnx or released"


@dataclass(frozen=True)
class Format:
    """One kind of file: its ending, the function that writes it, and Python code that loads it.

    `load` is a template: `file`, `architecture`, `size` and `channels` are filled in.
    """

    ending: str
    write: Callable[[Checkpoint, Path], None]
    load: str


def export(
    checkpoint: Checkpoint, path: Path, *, form: str, source: Path, metrics: Mapping[str, Any]
) -> Path:
    """Write the backbone to `path` and its card to `path` with `.json` added; return the card.

    `form` is one of `FORMATS`; `source` is the checkpoint's file and `metrics` its scores, for
    the card. Raises ConfigError if the format's library has no such network.
    """
    with atomic_path(path) as temporary:
        FORMATS[form].write(checkpoint, temporary)
    write_json(card_of(path), _card(checkpoint, path, form, source, metrics))
    return card_of(path)


def export_int8(checkpoint: Checkpoint, path: Path, images: Tensor, *, source: Path) -> Path:
    """Write the int8 form of the ONNX file `path` beside it, with a card; return its path.

    `images` (N, C, size, size), uint8, are original views of training images: the ranges of
    activations are those that occur on them.
    """
    target = int8_path(path)
    with atomic_path(target) as temporary:
        made = quantise(path, temporary, images, checkpoint.image)
    card = _card(checkpoint, target, "onnx", source, {})
    write_json(card_of(target), {**card, "quantisation": made})
    return target


def int8_path(path: Path) -> Path:
    """Return where the int8 form of an ONNX file lies: `x.int8.onnx` for `x.onnx`."""
    return path.with_name(f"{path.stem}.int8{path.suffix}")


def amend_card(path: Path, **entries: Any) -> None:
    """Set entries of the card of an exported file."""
    card = json.loads(card_of(path).read_text(encoding="utf-8"))
    write_json(card_of(path), {**card, **entries})


def card_of(path: Path) -> Path:
    """Return the path of an exported file's card."""
    return path.with_name(path.name + ".json")


def backbone_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the backbone's weights by their names without prefix."""
    return {
        name.removeprefix(BACKBONE): value.contiguous()
        for name, value in checkpoint.encoder.items()
        if name.startswith(BACKBONE)
    }


def _safetensors(checkpoint: Checkpoint, path: Path) -> None:
    from safetensors.torch import save_file

    metadata = {"architecture": checkpoint.student.architecture, "format": "pt"}
    save_file(backbone_weights(checkpoint), path, metadata=metadata)


def _torchvision(checkpoint: Checkpoint, path: Path) -> None:
    _require_plain_resnet(checkpoint, "torchvision")
    torch.save(backbone_weights(checkpoint), path)


def _timm(checkpoint: Checkpoint, path: Path) -> None:
    # timm's ResNets with a 7x7 stem have torchvision's names and strides.
    if not checkpoint.student.architecture.startswith(TIMM_PREFIX):
        _require_plain_resnet(checkpoint, "timm")
    _safetensors(checkpoint, path)


def _require_plain_resnet(checkpoint: Checkpoint, library: str) -> None:
    student = checkpoint.student
    if student.architecture not in TORCHVISION_RESNETS:
        raise ConfigError(
            f"{library} has no {student.architecture!r} like this one, only "
            f"{', '.join(TORCHVISION_RESNETS)}: {TRY_INSTEAD}."
        )
    other_stem = student.stem not in (None, "7x7") or student.maxpool is False
    if other_stem or checkpoint.image.channels != 3:
        raise ConfigError(
            f"{library}'s ResNets have a 7x7 stem with a max-pool, for 3 channels; this student "
            f"has another: {TRY_INSTEAD}."
        )


def _released(checkpoint: Checkpoint, path: Path) -> None:
    content: dict[str, Any] = {"encoder": dict(checkpoint.encoder)}
    if checkpoint.probe is not None:
        content["online_finetuner"] = dict(checkpoint.probe)
    torch.save(content, path)


def _onnx(checkpoint: Checkpoint, path: Path) -> None:
    write_onnx(checkpoint.build().backbone, checkpoint.image, path)


_OURS = 'import mvmr\nmodule, preprocessing = mvmr.load_encoder("{file}")'

FORMATS = {
    "safetensors": Format("safetensors", _safetensors, _OURS),
    "torchvision": Format(
        "pth",
        _torchvision,
        "import torch, torchvision\n"
        "module = torchvision.models.{architecture}()\n"
        "module.fc = torch.nn.Identity()\n"
        'module.load_state_dict(torch.load("{file}", weights_only=True))\n'
        "module.eval()",
    ),
    "timm": Format(
        "timm.safetensors",
        _timm,
        "import timm\n"
        'module = timm.create_model("{architecture}", num_classes=0, in_chans={channels}, '
        'checkpoint_path="{file}")\n'
        "module.eval()",
    ),
    "onnx": Format(
        "onnx",
        _onnx,
        "import onnxruntime\n"
        'session = onnxruntime.InferenceSession("{file}")\n'
        '(embeddings,) = session.run(None, {{"images": images}})  '
        "# float32 (B, {channels}, {size}, {size})",
    ),
    "released": Format("released.pth", _released, _OURS),
}


def _card(
    checkpoint: Checkpoint, path: Path, form: str, source: Path, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    student, image = checkpoint.student, checkpoint.image
    return {
        "format": form,
        "architecture": student.architecture,
        "student": student.model_copy(update={"weights": None}).model_dump(mode="json"),
        "preprocessing": image.model_dump(mode="json"),
        "preparation": _preparation(image),
        "embedding_size": checkpoint.build().h_width,
        "load": FORMATS[form].load.format(
            file=path.name,
            architecture=student.architecture.removeprefix(TIMM_PREFIX),
            channels=image.channels,
            size=image.size,
        ),
        "tensors": len(backbone_weights(checkpoint)),
        "checkpoint": {"file": source.name, "sha256": sha256_of(source)},
        "sha256": sha256_of(path),
        "training": dict(checkpoint.about),
        "metrics": dict(metrics),
    }


def _preparation(image: ImageOptions) -> dict[str, str]:
    """Return the steps from an image file to the network's input, for who writes them anew."""
    size = image.size
    return {
        "orientation": "upright, as EXIF says; transparency over white",
        "colours": "red, green, blue" if image.channels == 3 else "grey (ITU-R 601-2 luma)",
        "resize": f"the shorter side to {image.resize or size} pixels, bicubic, antialiased "
        "(Pillow's BICUBIC)",
        "crop": f"the central {size} x {size} pixels",
        "scaling": "values from 0 to 1, minus mean, divided by std, for each channel",
        "layout": f"float32 (batch, {image.channels}, {size}, {size}): batch, channel, row, column",
    }
