"""Fine-tuning on few labels: encoder and linear head together, each at its own rate.

The labelled images are drawn once, class by class and without replacement, or listed in a file; the
record names them. Batches are loaded as in training, from memory or from tars. Batch norm learns
from labelled training images alone, and is frozen for scoring. Schedules count optimiser steps. The
last step is scored; no step is selected.

A control without a network (pixels, a stored feature) gets a logistic regression on the same
labelled images, with its penalty chosen on validation.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.base.errors import DataError, TrainingError
from pipeline.base.seeds import generators_kept, seed_from
from pipeline.datasets.source import Split
from pipeline.evaluation.few_labels import labelled_rows
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.labelled_features import LabelledFeatures, class_indices, classes_of
from pipeline.evaluation.linear import LinearOptions, linear_probe
from pipeline.evaluation.protocol import (
    Outcome,
    ProtocolOptions,
    Setting,
    Values,
    classified,
    found_by_trying,
)
from pipeline.evaluation.subjects import Subject
from pipeline.images.original_view import normalise, normalise_views
from pipeline.images.random_views import (
    Augmentation,
    AugmentationOptions,
    build_augmentation,
)
from pipeline.loading.batch import Batch, SplitData
from pipeline.loading.batch_pixels import RandomViews, random_view
from pipeline.loading.loaders import LoadingOptions, loader_by_size, training_loader
from pipeline.metrics.accuracy import top_k_accuracy
from pipeline.models.encoder import Encoder
from pipeline.training.optimisers import OptimizerOptions, build_optimizer
from pipeline.training.schedules import ScheduleOptions, learning_rate
from pipeline.training.trial import PlainFit, Trial, plain_trial_options

_STEP = 1  # stream of random draws; drawing labels uses 0

Rate = Annotated[float, Field(gt=0)]


class SemiSupervisedOptions(ProtocolOptions):
    """`evaluate.<name>` of kind semi_supervised: fine-tuning on few labels.

    The labels are either a `share` of each class's training images (at least one), drawn by the
    experiment's seed, or those of the images that the text file `files` lists, one name per line.
    """

    fine_tunes: ClassVar[bool] = True

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

    @property
    def descends(self) -> bool:
        """Encoders are fine-tuned by gradient descent."""
        return True

    def score(self, subject: Subject, setting: Setting) -> Outcome:
        """Score one subject.

        Raises DataError if labels are missing, if a listed image is not among the training images,
        or if a class has no labelled image.
        """
        images = setting.images
        if images.several_classes:
            raise DataError("semi_supervised needs images with one class each; use voc07 instead.")
        chosen = labelled_rows(images, share=self.share, files=self.files, seed=setting.seed)
        if subject.encoder is None:
            shares, classes, values = _fitted(subject, chosen, setting)
        else:
            encoder = subject.encoder
            shares, classes, values = _fine_tuned(self, encoder, subject, chosen, setting)
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
            values=values,
            details={"labelled_images": sorted(names[row] for row in chosen.tolist())},
        )


# Probabilities (N, K) of the labelled test images, the labels of the columns (K,), and values
# for the record, such as the accuracy on validation.
Judged = tuple[Tensor, Tensor, Values]


def _fitted(subject: Subject, chosen: Tensor, setting: Setting) -> Judged:
    """Score a subject without a network by a logistic regression on the chosen images."""
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
    values = {"validation_top1": 100 * max(result.validation_accuracies)}
    return shares, result.classifier.classes, values


@generators_kept()
def _fine_tuned(
    options: SemiSupervisedOptions,
    encoder: Encoder,
    subject: Subject,
    chosen: Tensor,
    setting: Setting,
) -> Judged:
    """Score an encoder by a copy of it, fine-tuned on the chosen images."""
    images = setting.images
    others = [images.labels(s)[images.known(s)] for s in ("validation", "test")]
    classes = classes_of(images.labels("train")[chosen], torch.cat(others))
    data = images.splits["train"].subset(images.index("train")[chosen].tolist())
    learning = _Learning(options, encoder, data, classes, setting)
    options, tuned = _tuned(learning, subject)
    network = _fine_tune(replace(learning, options=options))
    shares = _shares(network, images, "validation", setting.device)
    accuracy = top_k_accuracy(shares, class_indices(others[0], classes))
    values = {"validation_top1": 100 * accuracy, **tuned}
    return _shares(network, images, "test", setting.device), classes, values


def _tuned(learning: "_Learning", subject: Subject) -> tuple[SemiSupervisedOptions, Values]:
    """Tune what `setting.wanted` names; return the options with it, and the values found.

    The encoder's rate is found; the head's rate keeps its ratio to it.
    """
    options, data, setting = learning.options, learning.data, learning.setting
    if not setting.wanted:
        return options, {}
    trial = Trial(
        module=learning.trial,
        loader=loader_by_size(data, options.loading, seed=setting.seed, views=learning.views),
        samples=data.valid_samples,
        options=plain_trial_options(setting.device),
    )
    found = found_by_trying(trial, setting, batch_size=learning.batch_size, subject=subject)
    if "lr" in found:
        rate = found.pop("lr")
        found["encoder_lr"], found["head_lr"] = rate, rate * options.head_lr / options.encoder_lr
    return options.model_copy(update=found), {"tuned": found}


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


@dataclass(frozen=True)
class _Learning:
    """What fine-tuning starts with, its loss and its optimiser."""

    options: SemiSupervisedOptions
    encoder: Encoder
    data: SplitData
    classes: Tensor
    setting: Setting

    @property
    def batch_size(self) -> int:
        """The given batch size, or the number of images if that is smaller."""
        return min(self.options.batch_size, self.data.valid_samples)

    @cached_property
    def _augment(self) -> Augmentation:
        return build_augmentation(self.options.augmentation, self.data.image)

    @property
    def views(self) -> RandomViews:
        """The one random view that each image is seen by."""
        return RandomViews(self.options.augmentation, original=False)

    def network(self) -> nn.Module:
        """Return a copy of the encoder's backbone with a new head, in training mode."""
        return _Network(self.encoder, len(self.classes)).to(self.setting.device).train()

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the cross entropy of a view of each image of a batch."""
        device = self.setting.device
        views = random_view(batch, self._augment, device)
        targets = class_indices(batch["labels"], self.classes).to(device)
        return F.cross_entropy(network(normalise_views(views, self.data.image)), targets)

    def optimizer(self, network: nn.Module) -> Optimizer:
        """Return an optimiser for backbone and head, each at its own rate."""
        options = self.options
        return build_optimizer(
            network.named_parameters(),
            options.optimizer,
            lr=options.encoder_lr,
            lr_factors={"head.": options.head_lr / options.encoder_lr},
        )

    def trial(self) -> PlainFit:
        """Return a new fit for the tuner."""
        network = self.network()
        return PlainFit(network, partial(self.loss, network), self.optimizer(network))


def _fine_tune(learning: _Learning) -> nn.Module:
    """Return a trained copy of the encoder with a head, in evaluation mode.

    Raises TrainingError if the loss is not finite.
    """
    options, data, setting = learning.options, learning.data, learning.setting
    network = learning.network()
    loader = training_loader(
        data,
        options.loading,
        batch_size=learning.batch_size,
        seed=setting.seed,
        views=learning.views,
    )
    optimizer = learning.optimizer(network)
    total = options.epochs * len(loader)
    setting.progress.start("fine-tune", total, "steps")
    step = 0
    for _ in range(options.epochs):
        for batch in loader:
            torch.manual_seed(seed_from(setting.seed, _STEP, step))
            _set_rates(optimizer, options, step, total, len(loader))
            loss = learning.loss(network, batch)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"The loss of fine-tuning is not finite at step {step}: lower encoder_lr or "
                    "head_lr."
                )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            step += 1
            setting.progress.advance(1)
    return network.eval()


def _set_rates(
    optimizer: Optimizer, options: SemiSupervisedOptions, step: int, total: int, epoch_steps: int
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(
            step,
            total_steps=total,
            steps_per_epoch=epoch_steps,
            base_lr=options.encoder_lr * group.get("lr_factor", 1.0),
            options=options.schedule,
        )


def _shares(network: nn.Module, images: Images, split: Split, device: torch.device) -> Tensor:
    """Return the probabilities (N, K) of the labelled images of a split."""
    with torch.no_grad():
        parts = [
            network(normalise(batch.to(device), images.image)).double().softmax(dim=1).cpu()
            for batch in images.batches(split)
        ]
    return torch.cat(parts)[images.known(split)]
