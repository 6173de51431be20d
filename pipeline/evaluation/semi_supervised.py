"""Fine-tuning on few labels: encoder and a linear head together, each at its own rate.

The labelled images are drawn once, class by class and without replacement, or listed in a file;
the record names them. They are copied to shards of their own, so that training batches come as
they do in training, from memory or from tars. Batch norm learns from labelled training images
alone, is frozen for scoring, and schedules count optimiser steps. The last step is what is
scored: nothing is selected.

A control without a network (pixels, a stored feature) gets a logistic regression on the same
labelled images, its penalty chosen on validation.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.config import Options, digest
from pipeline.datasets.base import Encoded, Item, Source, Split
from pipeline.encoders import Encoder
from pipeline.errors import DataError, TrainingError
from pipeline.evaluation.features import LabelledFeatures, class_indices, classes_of
from pipeline.evaluation.images import Images
from pipeline.evaluation.linear import LinearOptions, linear_probe
from pipeline.evaluation.metrics import top_k_accuracy
from pipeline.evaluation.setting import Outcome, Setting, classified
from pipeline.evaluation.subjects import Subject
from pipeline.images import normalise
from pipeline.loading.batch import SplitData
from pipeline.loading.training import LoadingOptions, training_loader
from pipeline.runtime import Silent, generator, seed_from
from pipeline.schedules import OptimizerOptions, ScheduleOptions, build_optimizer, learning_rate
from pipeline.shards import (
    IMAGE_EXTENSIONS,
    Record,
    ShardOptions,
    read_manifest,
    read_shard,
    write_split,
)
from pipeline.views import AugmentationOptions, build_augmentation

_DRAW, _STEP = 0, 1  # streams of random draws

Rate = Annotated[float, Field(gt=0)]


class SemiSupervisedOptions(Options):
    """`evaluate.<name>` of kind semi_supervised: fine-tuning on few labels.

    The labels are either a `share` of each class's training images (at least one), drawn by the
    experiment's seed, or the images that the text file `files` lists, one name a line.
    """

    kind: Literal["semi_supervised"] = "semi_supervised"
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    files: Annotated[Path, Field(strict=False)] | None = None
    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=2)] = 256
    encoder_lr: Rate = 1e-4
    head_lr: Rate = 1e-3
    optimizer: OptimizerOptions = OptimizerOptions(weight_decay=1e-6)
    schedule: ScheduleOptions = ScheduleOptions()
    augmentation: AugmentationOptions = AugmentationOptions()
    loading: LoadingOptions = LoadingOptions()

    @model_validator(mode="after")
    def _one_choice(self) -> "SemiSupervisedOptions":
        if (self.share is None) == (self.files is None):
            raise ValueError("set either share, such as 0.01, or files, a list of image names")
        return self


def score(options: SemiSupervisedOptions, subject: Subject, setting: Setting) -> Outcome:
    """Score one subject.

    Raises DataError if labels are missing, a listed image is not among the training images, or
    a class has no labelled image.
    """
    images = setting.images
    if images.several_classes:
        raise DataError("semi_supervised needs images with one class each; use voc07 instead.")
    chosen = labelled_rows(options, images, seed=setting.seed)
    if subject.encoder is None:
        shares, classes, validation = _fitted(subject, chosen, setting)
    else:
        shares, classes, validation = _fine_tuned(options, subject.encoder, chosen, setting)
    names = images.names("train")
    return classified(
        shares,
        classes,
        setting,
        images={
            "train": len(chosen),
            "validation": int(images.known("validation").sum()),
            "test": int(images.known("test").sum()),
        },
        values={"validation_top1": 100 * validation},
        details={"labelled_images": sorted(names[row] for row in chosen.tolist())},
    )


# Probabilities (N, K) of the labelled test images, the labels of the columns (K,), and the
# accuracy on validation, in [0, 1].
Judged = tuple[Tensor, Tensor, float]


def _fitted(subject: Subject, chosen: Tensor, setting: Setting) -> Judged:
    """Judge a subject without a network by a logistic regression on the chosen images."""
    images = setting.images
    train = LabelledFeatures(subject.of("train")[chosen], images.labels("train")[chosen])
    validation, test = (subject.labelled(images, split) for split in ("validation", "test"))
    options = LinearOptions()
    setting.progress.start(f"few labels on {subject.name}", len(options.l2), "fits")
    result = linear_probe(
        train,
        validation,
        test,
        options=options,
        device=setting.device,
        progress=setting.progress,
    )
    shares = result.test_logits.double().softmax(dim=1)
    return shares, result.classifier.classes, max(result.validation_accuracies)


def _fine_tuned(
    options: SemiSupervisedOptions, encoder: Encoder, chosen: Tensor, setting: Setting
) -> Judged:
    """Judge an encoder by a copy of it, fine-tuned on the chosen images."""
    images = setting.images
    others = [images.labels(s)[images.known(s)] for s in ("validation", "test")]
    classes = _classes(images.labels("train")[chosen], torch.cat(others))
    data = labelled_shards(images, chosen, setting.work)
    network = fine_tune(options, encoder, data, classes, setting)
    shares = _shares(network, images, "validation", setting.device)
    accuracy = top_k_accuracy(shares, class_indices(others[0], classes))
    return _shares(network, images, "test", setting.device), classes, accuracy


def labelled_rows(options: SemiSupervisedOptions, images: Images, *, seed: int) -> Tensor:
    """Return the rows (N,), sorted, of the training images whose labels may be seen."""
    known = images.known("train").nonzero().flatten()
    if options.files is not None:
        return _listed(options.files, images, known)
    share = options.share or 0.0
    labels, source = images.labels("train")[known], generator(seed, _DRAW)
    parts = []
    for label in torch.unique(labels).tolist():
        group = known[labels == label]
        count = max(1, round(share * len(group)))
        parts.append(group[torch.randperm(len(group), generator=source)[:count]])
    return torch.cat(parts).sort().values


def _listed(path: Path, images: Images, known: Tensor) -> Tensor:
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The list of labelled images {str(path)!r} cannot be read: {error}."
        ) from error
    names = images.names("train")
    rows = {names[row]: row for row in known.tolist()}
    by_file = {Path(name).name: row for name, row in rows.items()}
    if len(by_file) < len(rows):  # the same file name in several folders
        by_file = {}
    missing = [line for line in lines if line not in rows and line not in by_file]
    if missing or not lines:
        found = f"{len(missing)} of {len(lines)} are not" if missing else "it is empty"
        first = f", such as {missing[0]!r}" if missing else ""
        raise DataError(
            f"{path} must list labelled training images by name, one a line; {found}{first}. "
            f"A name here is like {names[0]!r}."
        )
    chosen = {rows[line] if line in rows else by_file[line] for line in lines}
    return torch.tensor(sorted(chosen))


def _classes(labels: Tensor, others: Tensor) -> Tensor:
    """Return the classes of the labelled images; DataError as `classes_of`."""
    blank = torch.zeros(1, 1)
    return classes_of(
        LabelledFeatures(blank.expand(len(labels), 1), labels),
        LabelledFeatures(blank.expand(len(others), 1), others),
    )


class _Chosen(Source):
    """Some images of a split, read back from its tars."""

    def __init__(self, data: SplitData, rows: Sequence[int], labels: Sequence[int]) -> None:
        self.classes = data.manifest.classes
        self._data = data
        self._lock = Lock()
        per = data.manifest.samples_per_shard
        self._places = {f"{row}": divmod(row, per) for row in rows}
        self.splits = {
            "train": [Item(f"{row}", label) for row, label in zip(rows, labels, strict=True)]
        }
        self._shard = lru_cache(maxsize=2)(self._read_shard)

    def read(self, item: Item) -> Encoded:
        """Return one image's file, from the tar that holds it."""
        number, row = self._places[item.name]
        with self._lock:
            record = self._shard(number)[row]
        return Encoded(record.data, _extension(record.data))

    def _read_shard(self, number: int) -> list[Record]:
        return list(read_shard(self._data.directory, self._data.manifest, number))


def _extension(data: bytes) -> str:
    jpg, png, webp = IMAGE_EXTENSIONS
    return jpg if data[:2] == b"\xff\xd8" else png if data[:4] == b"\x89PNG" else webp


def labelled_shards(images: Images, rows: Tensor, work: Path) -> SplitData:
    """Write training images `rows` (N,) of the valid ones as shards below `work`, or find them."""
    data = images.splits["train"]
    index = images.index("train")[rows].tolist()
    labels = images.labels("train")[rows].tolist()
    key = digest([data.manifest.digest, index])[:16]
    directory = work / f"labelled-{key}"
    source = _Chosen(data, index, labels)
    if not (directory / "manifest.json").exists():
        write_split(
            source,
            source.splits["train"],
            directory,
            dataset=data.manifest.dataset,
            split="train",
            options=ShardOptions(samples=min(data.manifest.samples_per_shard, len(index))),
            provenance={},
            progress=Silent(),
        )
    return SplitData(directory, read_manifest(directory), {}, data.image)


class _Network(nn.Module):
    """Backbone and head: images (B, C, H, W) -> logits (B, K)."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.backbone = deepcopy(encoder.backbone)
        self.head = nn.Linear(encoder.h_width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images))
        return logits


def fine_tune(
    options: SemiSupervisedOptions,
    encoder: Encoder,
    data: SplitData,
    classes: Tensor,
    setting: Setting,
) -> nn.Module:
    """Return a copy of the encoder with a head, trained on `data`, in evaluation mode.

    Raises TrainingError if the loss is not finite.
    """
    network = _Network(encoder, len(classes)).to(setting.device).train()
    augment = build_augmentation(options.augmentation, data.image)
    batch_size = min(options.batch_size, data.valid_samples)
    loader = training_loader(data, options.loading, batch_size=batch_size, seed=setting.seed)
    optimizers = [
        (rate, build_optimizer(part.named_parameters(), options.optimizer, lr=rate))
        for part, rate in (
            (network.backbone, options.encoder_lr),
            (network.head, options.head_lr),
        )
    ]
    total = options.epochs * len(loader)
    setting.progress.start("fine-tune", total, "steps")
    step = 0
    for _ in range(options.epochs):
        for batch in loader:
            torch.manual_seed(seed_from(setting.seed, _STEP, step))
            _set_rates(optimizers, step, total, len(loader), options.schedule)
            views = augment(batch["images"].float() / 255).to(setting.device)
            targets = class_indices(batch["labels"], classes).to(setting.device)
            loss = F.cross_entropy(network(normalise(views, data.image)), targets)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"The loss of fine-tuning is not finite at step {step}: lower encoder_lr or "
                    "head_lr."
                )
            for _, optimizer in optimizers:
                optimizer.zero_grad()
            torch.autograd.backward(loss)
            for _, optimizer in optimizers:
                optimizer.step()
            step += 1
            setting.progress.advance(1)
    return network.eval()


def _set_rates(
    optimizers: Iterable[tuple[float, Optimizer]],
    step: int,
    total: int,
    steps_per_epoch: int,
    schedule: ScheduleOptions,
) -> None:
    for base, optimizer in optimizers:
        rate = learning_rate(
            step,
            total_steps=total,
            steps_per_epoch=steps_per_epoch,
            base_lr=base,
            options=schedule,
        )
        for group in optimizer.param_groups:
            group["lr"] = rate


def _shares(network: nn.Module, images: Images, split: Split, device: torch.device) -> Tensor:
    """Return the probabilities (N, K) of the labelled images of a split."""
    with torch.no_grad():
        parts = [
            network(normalise(batch.to(device), images.image)).double().softmax(dim=1).cpu()
            for batch in images.batches(split)
        ]
    return torch.cat(parts)[images.known(split)]
