"""The published fit of a linear classifier: Adam on features of augmented views.

Every pair of learning rate and weight decay has a classifier of its own, and all learn from the
same batches of features, so that a sweep costs one pass of the encoder. The encoder is in
evaluation mode: labelled images do not move its batch norm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.config import Options
from pipeline.errors import TrainingError
from pipeline.evaluation.features import LabelledFeatures, class_indices, classes_of
from pipeline.evaluation.logistic import LinearClassifier
from pipeline.evaluation.metrics import top_k_accuracy
from pipeline.evaluation.setting import Setting
from pipeline.evaluation.subjects import Subject
from pipeline.loading.batch import NO_LABEL, Batch
from pipeline.loading.training import LoadingOptions, training_loader
from pipeline.runtime import seed_from
from pipeline.schedules import OptimizerOptions, ScheduleOptions, build_optimizer, learning_rate
from pipeline.views import AugmentationOptions, build_augmentation

Rates = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False, min_length=1)]


class AugmentedFitOptions(Options):
    """`evaluate.<name>.fit`: gradient descent on features of augmented views.

    Every pair of `lrs` and `weight_decays` is tried. The defaults are the published fit: Adam
    at 1e-3 with a cosine to 0 over 100 epochs.
    """

    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=1)] = 256
    lrs: Rates = (1e-3,)
    weight_decays: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...], Field(strict=False, min_length=1)
    ] = (0.0,)
    loading: LoadingOptions = LoadingOptions()


@dataclass(frozen=True)
class AugmentedFit:
    """The classifier that is best on validation, its figures, and all that were tried."""

    classifier: LinearClassifier
    chosen: dict[str, Any]
    tried: list[dict[str, Any]]


@dataclass(frozen=True)
class _Candidate:
    lr: float
    head: nn.Linear
    optimizer: torch.optim.Optimizer


def augmented_probe(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    test: LabelledFeatures,
    subject: Subject,
    setting: Setting,
    *,
    augmentation: AugmentationOptions,
    options: AugmentedFitOptions,
) -> AugmentedFit:
    """Fit on augmented training images, choose by accuracy on `validation`.

    A subject that is stored, and so has nothing to compute of a view, is fitted the same way on
    its stored features. Raises DataError if there are fewer than two classes, or one of the test
    images' has no training image, TrainingError if a loss is not finite.
    """
    classes = classes_of(train, validation, test)
    batches = _Batches(train, subject, setting, augmentation, options)
    mean, scale = train.features.mean(dim=0), train.features.std(dim=0).clamp_min(1e-6)
    candidates = [
        _candidate(lr, decay, train.features.shape[1], len(classes), setting)
        for lr, decay in product(options.lrs, options.weight_decays)
    ]
    setting.progress.start(f"fit {subject.name}", options.epochs * len(batches), "steps")
    for step in range(options.epochs * len(batches)):
        features, labels = batches.next(step)
        inputs = ((features.cpu() - mean) / scale).to(setting.device)
        targets = class_indices(labels, classes).to(setting.device)
        for candidate in candidates:
            _step(candidate, inputs, targets, step, options.epochs, len(batches))
        setting.progress.advance(1)
    targets = class_indices(validation.labels, classes)
    fitted = [_raw(candidate.head, mean, scale, classes) for candidate in candidates]
    scores = [100 * top_k_accuracy(c.logits(validation.features), targets) for c in fitted]
    tried = [
        {"lr": lr, "weight_decay": decay, "validation_top1": score}
        for (lr, decay), score in zip(
            product(options.lrs, options.weight_decays), scores, strict=True
        )
    ]
    best = scores.index(max(scores))
    return AugmentedFit(fitted[best], tried[best], tried)


class _Batches:
    """Features and labels of labelled training images, batch after batch."""

    def __init__(
        self,
        train: LabelledFeatures,
        subject: Subject,
        setting: Setting,
        augmentation: AugmentationOptions,
        options: AugmentedFitOptions,
    ) -> None:
        data = setting.images.splits["train"]
        self._train, self._embed, self._seed = train, subject.embed, setting.seed
        self._size = min(options.batch_size, data.valid_samples)
        self._augment = build_augmentation(augmentation, data.image)
        if self._embed is None:
            self._count = max(1, len(train) // self._size)
            self._order = torch.empty(0, dtype=torch.int64)
            return
        self._loader = training_loader(
            data, options.loading, batch_size=self._size, seed=setting.seed
        )
        self._count = len(self._loader)
        self._running: Iterator[Batch] = iter(())

    def __len__(self) -> int:
        return self._count

    def next(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the features and labels of step `step`; each is asked for once, in order."""
        place = step % self._count
        torch.manual_seed(seed_from(self._seed, step))
        if self._embed is None:
            if place == 0:
                self._order = torch.randperm(len(self._train))
            rows = self._order[place * self._size : (place + 1) * self._size]
            return self._train.features[rows], self._train.labels[rows]
        if place == 0:
            self._running = iter(self._loader)
        batch = next(self._running)
        known = batch["labels"] != NO_LABEL
        views = self._augment(batch["images"][known].float() / 255)
        return self._embed(views), batch["labels"][known]


def _candidate(lr: float, decay: float, width: int, classes: int, setting: Setting) -> _Candidate:
    head = nn.Linear(width, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    head.to(setting.device)
    options = OptimizerOptions(weight_decay=decay)
    return _Candidate(lr, head, build_optimizer(head.named_parameters(), options, lr=lr))


def _step(
    candidate: _Candidate,
    features: Tensor,
    targets: Tensor,
    step: int,
    epochs: int,
    steps_per_epoch: int,
) -> None:
    if not len(targets):  # a batch in which no image has a label
        return
    rate = learning_rate(
        step,
        total_steps=epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        base_lr=candidate.lr,
        options=ScheduleOptions(kind="cosine"),
    )
    for group in candidate.optimizer.param_groups:
        group["lr"] = rate
    loss = F.cross_entropy(candidate.head(features), targets)
    if not torch.isfinite(loss):
        raise TrainingError(
            f"The loss of the linear fit is not finite at step {step} with lr {candidate.lr}: "
            "lower it in `fit.lrs`."
        )
    candidate.optimizer.zero_grad()
    torch.autograd.backward(loss)
    candidate.optimizer.step()


def _raw(head: nn.Linear, mean: Tensor, scale: Tensor, classes: Tensor) -> LinearClassifier:
    """Return the classifier of features as they were before standardising."""
    weight = head.weight.detach().cpu().T / scale[:, None]
    return LinearClassifier(weight, head.bias.detach().cpu() - mean @ weight, classes)


def ten_crop(images: Tensor, size: int) -> list[Tensor]:
    """Cut corners and centre (B, C, size, size) from square images, and mirror each."""
    side = images.shape[-1]
    far, middle = side - size, (side - size) // 2
    corners = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    crops = [images[..., top : top + size, left : left + size] for top, left in corners]
    return [*crops, *(crop.flip(-1) for crop in crops)]
