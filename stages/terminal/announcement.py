"""What a stage prints before it begins: the resolved experiment, in a few lines."""

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.base.devices import available_cores, device_from
from pipeline.base.options import Options
from pipeline.base.text import counted
from pipeline.datasets.source import SPLITS
from pipeline.images.original_view import ImageOptions
from pipeline.models.encoder import outlined
from pipeline.models.student import StudentOptions
from pipeline.objective.weights import weight_text
from pipeline.shards.manifest import MANIFEST, read_manifest
from stages.experiment.paths import DatasetLayout
from stages.experiment.schema import Experiment
from stages.terminal.console import Screen
from stages.terminal.result import count

SHOWN_DIGITS = 12


def announce(
    screen: Screen,
    what: str,
    experiment: Experiment,
    *,
    data: DatasetLayout | None = None,
    reads: Sequence[object],
    writes: Sequence[object],
    student: bool = False,
    objective: bool = False,
    device: bool = False,
) -> None:
    """Announce what a stage will do; the flags add the student, the objective and the device."""
    values: dict[str, Any] = {
        "experiment": experiment.name,
        "digest": experiment.digest(),
        "dataset": {
            "name": experiment.dataset.name,
            "images": _images(data),
            "size": experiment.dataset.image.size,
            "channels": experiment.dataset.image.channels,
        },
    }
    rows = {"data set": _dataset_line(values["dataset"])}
    if student:
        found = _student(experiment.student, experiment.dataset.image)
        values["student"] = found
        rows["student"] = (
            f"{found['architecture']}, {found['parameters'] / 1e6:.2f} M parameters"
            f"{_projector(experiment.student, found)}"
        )
    if objective and experiment.objective is not None and experiment.train is not None:
        if experiment.train.views.local:
            values["views"] = experiment.train.views.model_dump(mode="json")
            rows["views"] = experiment.train.views.told(experiment.dataset.image.size)
        weights = {name: term.weight for name, term in experiment.objective.items()}
        values["objective"] = {
            name: term.model_dump(mode="json")["weight"]
            for name, term in experiment.objective.items()
        }
        rows["objective"] = ", ".join(f"{n} {weight_text(w)}" for n, w in weights.items())
    values |= {"reads": list(map(str, reads)), "writes": list(map(str, writes))}
    rows |= {"reads": ", ".join(values["reads"]), "writes": ", ".join(values["writes"])}
    if device:
        values["device"] = str(device_from("auto"))
        rows["device"] = _device_line(values["device"])
    title = f"{what}: {experiment.name} ({values['digest'][:SHOWN_DIGITS]})"
    screen.begin(title, {name: text for name, text in rows.items() if text}, values)


def _images(data: DatasetLayout | None) -> dict[str, int] | None:
    """Return the number of images of each packed split, or None."""
    if data is None:
        return None
    packed = [split for split in SPLITS if (data.shards / split / MANIFEST).exists()]
    return {split: read_manifest(data.shards / split).valid for split in packed} or None


def _dataset_line(dataset: dict[str, Any]) -> str:
    images = dataset["images"]
    sizes = ", ".join(f"{count(n)} {split}" for split, n in (images or {}).items())
    channels = counted(dataset["channels"], "channels")
    pixels = f"{dataset['size']} x {dataset['size']} px, {channels}"
    return ", ".join(filter(None, [dataset["name"], sizes, pixels]))


def _student(options: StudentOptions, image: ImageOptions) -> dict[str, Any]:
    """Return the architecture and its numbers of parameters, without creating weights."""
    encoder = outlined(options, channels=image.channels, size=image.size)
    backbone, projector = (
        sum(p.numel() for p in part.parameters()) for part in (encoder.backbone, encoder.projector)
    )
    return {
        "architecture": options.architecture,
        "parameters": backbone,
        "width": encoder.h_width,
        "projector": list(options.projector),
        "projector_parameters": projector,
    }


def _projector(options: StudentOptions, found: dict[str, Any]) -> str:
    if not options.projector:
        return ""
    widths = "-".join(map(str, options.projector))
    return f"; projector {widths}, {found['projector_parameters'] / 1e6:.2f} M"


def _device_line(name: str) -> str:
    if name.startswith("cuda"):
        return f"{name}, {torch.cuda.get_device_name()}"
    return f"{name}, {counted(available_cores(), 'cores')}"


def source_name(source: Options) -> str:
    """Return where images come from: the kind of source, and its place if it has one."""
    place = getattr(source, "root", None) or getattr(source, "path", None)
    kind = getattr(source, "kind", type(source).__name__)
    return f"{kind} {place}" if place else str(kind)
