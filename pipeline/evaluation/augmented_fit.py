"""The published fit of a linear classifier: Adam on features of augmented views.

Every pair of learning rate and weight decay has its own classifier. All of them learn from the same
batches of features, so a sweep needs one pass of the encoder per epoch. The encoder is in
evaluation mode, so labelled images do not change its batch norm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.base.devices import sent
from pipeline.base.errors import TrainingError
from pipeline.base.seeds import generators_kept
from pipeline.evaluation.feature_batches import (
    Batches,
    EmbeddedViews,
    Rows,
    StoredBatches,
    ViewBatches,
)
from pipeline.evaluation.fit_options import AugmentedFitOptions
from pipeline.evaluation.labelled_features import class_indices
from pipeline.evaluation.logistic import LinearClassifier
from pipeline.evaluation.protocol import Setting, Values, found_by_trying
from pipeline.evaluation.standardisation import Standardisation
from pipeline.evaluation.subjects import Subject
from pipeline.images.random_views import AugmentationOptions, build_augmentation
from pipeline.loading.batch_pixels import RandomViews
from pipeline.loading.loaders import loader_by_size
from pipeline.metrics.accuracy import top_k_accuracy
from pipeline.metrics.average_precision import mean_over_classes
from pipeline.training.optimisers import OptimizerOptions, build_optimizer
from pipeline.training.schedules import ScheduleOptions, learning_rate
from pipeline.training.trial import PlainFit, Trial, plain_trial_options


@dataclass(frozen=True)
class LabelTask:
    """What a linear classifier predicts: its loss on labels, and its score.

    `loss` maps logits (B, K) and the labels of a batch to a scalar. `score` returns percent, and
    `figure` is the name of that figure. `classes` (K,) are the labels of the columns.
    """

    classes: Tensor
    figure: str
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]


def one_class(classes: Tensor) -> LabelTask:
    """Return the task of predicting an image's only class, among `classes` (K,)."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, class_indices(labels, classes).to(logits.device))

    def score(logits: Tensor, labels: Tensor) -> float:
        return 100 * top_k_accuracy(logits, class_indices(labels, classes))

    return LabelTask(classes, "validation_top1", loss, score)


def several_classes(count: int) -> LabelTask:
    """Return the task of predicting, for each of `count` classes, whether an image has it.

    Labels are (B, K), negative where an image does not count for a class. The loss of a class is
    the mean over the batch's images that count; the loss of a batch is the mean over classes.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        present = labels.to(logits)
        counts = (present >= 0).to(logits)
        losses = F.binary_cross_entropy_with_logits(
            logits, present.clamp_min(0), weight=counts, reduction="none"
        )
        return (losses.sum(dim=0) / counts.sum(dim=0).clamp_min(1)).mean()

    def score(logits: Tensor, labels: Tensor) -> float:
        return 100 * mean_over_classes(logits, labels)[0].eleven_point.item()

    return LabelTask(torch.arange(count), "validation_map", loss, score)


@dataclass(frozen=True)
class AugmentedFit:
    """The classifier that is best on validation, its figures, and those of all candidates."""

    classifier: LinearClassifier
    chosen: dict[str, Any]
    tried: list[dict[str, Any]]


@dataclass(frozen=True)
class _Candidate:
    lr: float
    head: nn.Linear
    optimizer: torch.optim.Optimizer


@generators_kept()
def augmented_fit(
    train: Rows,
    validation: Rows,
    task: LabelTask,
    subject: Subject,
    setting: Setting,
    *,
    augmentation: AugmentationOptions,
    options: AugmentedFitOptions,
) -> AugmentedFit:
    """Fit on augmented training images, and choose by the task's score on `validation`.

    A stored subject cannot embed views, so it is fitted the same way on its stored features. Raises
    TrainingError if a loss is not finite.
    """
    fit = _Fit(train, task, subject, setting, augmentation, options)
    options, tuned = fit.tuned(subject)
    pairs = list(product(options.lrs, options.weight_decays))
    candidates = [fit.candidate(lr, decay) for lr, decay in pairs]
    batches = fit.batches(min(options.batch_size, fit.samples))
    setting.progress.start(f"fit {subject.name}", options.epochs * len(batches), "steps")
    step = 0
    for _ in range(options.epochs):
        for features, labels in batches:
            inputs = fit.standardised(features)
            for candidate in candidates:
                _step(candidate, inputs, labels, task, step, options.epochs, len(batches))
            step += 1
            setting.progress.advance(1)
    fitted = [fit.classifier(candidate.head) for candidate in candidates]
    scores = [task.score(c.logits(validation.features), validation.labels) for c in fitted]
    tried = [
        {"lr": lr, "weight_decay": decay, task.figure: score}
        for (lr, decay), score in zip(pairs, scores, strict=True)
    ]
    best = scores.index(max(scores))
    return AugmentedFit(fitted[best], {**tried[best], **tuned}, tried)


class _Fit:
    """What all candidates share: batches of features, their standardisation and the task."""

    def __init__(
        self,
        train: Rows,
        task: LabelTask,
        subject: Subject,
        setting: Setting,
        augmentation: AugmentationOptions,
        options: AugmentedFitOptions,
    ) -> None:
        data = setting.images.splits["train"]
        self._train, self._task, self._setting, self._options = train, task, setting, options
        self._standardisation = Standardisation.of(train.features, setting.device)
        self._images: EmbeddedViews | None = None
        self.samples = len(train.labels)
        if subject.embed is not None:
            self.samples = data.valid_samples
            views = RandomViews(augmentation, original=False)
            loader = loader_by_size(data, options.loading, seed=setting.seed, views=views)
            augment = build_augmentation(augmentation, data.image)
            self._images = EmbeddedViews(loader, augment, subject.embed, setting.device)

    def batches(self, size: int) -> Batches:
        """Return batches of `size`; each iteration over them is an epoch."""
        if self._images is None:
            return StoredBatches(self._train, size, self._setting.seed)
        return ViewBatches(self._images, size, self._setting.seed)

    def standardised(self, features: Tensor) -> Tensor:
        """Return features (B, D), standardised by the training images, on the device."""
        return self._standardisation.apply(sent(features, self._setting.device))

    def candidate(self, lr: float, decay: float) -> _Candidate:
        """Return an untrained classifier and its optimiser."""
        head = nn.Linear(self._train.features.shape[1], len(self._task.classes))
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        head.to(self._setting.device)
        options = OptimizerOptions(weight_decay=decay)
        return _Candidate(lr, head, build_optimizer(head.named_parameters(), options, lr=lr))

    def classifier(self, head: nn.Linear) -> LinearClassifier:
        """Return the classifier of features as they are, on the CPU."""
        weight, bias = head.weight.detach().T, head.bias.detach()
        found = LinearClassifier(weight, bias, self._task.classes, self._standardisation)
        return found.to(torch.device("cpu"))

    def tuned(self, subject: Subject) -> tuple[AugmentedFitOptions, Values]:
        """Tune what `setting.wanted` names; return the options with it, and the values found."""
        trial = Trial(
            module=self._trial,
            loader=self.batches,
            samples=self.samples,
            options=plain_trial_options(self._setting.device),
        )
        size = min(self._options.batch_size, self.samples)
        found = found_by_trying(trial, self._setting, batch_size=size, subject=subject)
        if not found:
            return self._options, {}
        update = {"lrs" if name == "lr" else name: value for name, value in found.items()}
        if "lrs" in update:
            update["lrs"] = (update["lrs"],)
        return self._options.model_copy(update=update), {"tuned": found}

    def _trial(self) -> PlainFit:
        candidate = self.candidate(self._options.lrs[0], self._options.weight_decays[0])

        def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
            features, labels = batch
            return self._task.loss(candidate.head(self.standardised(features)), labels)

        return PlainFit(candidate.head, loss, candidate.optimizer)


def _step(
    candidate: _Candidate,
    features: Tensor,
    labels: Tensor,
    task: LabelTask,
    step: int,
    epochs: int,
    steps_per_epoch: int,
) -> None:
    if not len(labels):  # a batch in which no image has a label
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
    loss = task.loss(candidate.head(features), labels)
    if not torch.isfinite(loss):
        raise TrainingError(
            f"The loss of the linear fit is not finite at step {step} with lr {candidate.lr}: "
            "lower it in `fit.lrs`."
        )
    candidate.optimizer.zero_grad()
    torch.autograd.backward(loss)
    candidate.optimizer.step()
