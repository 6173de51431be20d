"""Online probes: they measure the features during training, without affecting them.

With several processes, each sees its own part of the images, and all get the same result.
"""

from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from pipeline.base.seeds import seeded
from pipeline.loading.batch import NO_LABEL
from pipeline.metrics.neighbours import nearest, vote
from pipeline.training.collectives import rows_of_all_processes, sum_over_processes
from pipeline.training.curve_names import KNN, LABELLED, LARGEST_CLASS, PROBE

KNN_TEMPERATURE = 0.07
KNN_IMAGES = 10_000


class OnlineProbe(Callback):
    """A linear classifier that learns on detached training features; validation features score it.

    It has its own optimiser and adds nothing to the loss. Samples without a label are skipped.
    """

    def __init__(self, width: int, classes: int, *, lr: float, seed: int) -> None:
        with seeded(seed):
            self.classifier = nn.Linear(width, classes)
        self._optimizer = torch.optim.Adam(self.classifier.parameters(), lr=lr)
        self._restored: dict[str, Any] | None = None
        self._counts = torch.zeros(2)  # right answers, images
        self._by_class = torch.zeros(classes)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move to the encoder's device, then restore the optimiser's state there."""
        self.classifier.to(pl_module.device)
        if self._restored is not None:
            self._optimizer.load_state_dict(self._restored)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Take one step on the labelled samples of the batch."""
        known = outputs["labels"] != NO_LABEL
        with torch.enable_grad(), torch.autocast(pl_module.device.type, enabled=False):
            logits = self.classifier(outputs["h"].float())
            loss = F.cross_entropy(
                logits, outputs["labels"], ignore_index=NO_LABEL, reduction="sum"
            )
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        labelled = sum_over_processes(known.sum())
        if not labelled:
            return
        for parameter in self.classifier.parameters():
            if parameter.grad is not None:
                parameter.grad = sum_over_processes(parameter.grad) / labelled
        self._optimizer.step()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the counts."""
        self._counts = torch.zeros(2, device=pl_module.device)
        self._by_class = torch.zeros(self.classifier.out_features, device=pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the right answers."""
        known = outputs["labels"] != NO_LABEL
        with torch.autocast(pl_module.device.type, enabled=False):
            guesses = self.classifier(outputs["h"][known].float()).argmax(dim=1)
        right = (guesses == outputs["labels"][known]).sum()
        self._counts += torch.stack([right, known.sum()])
        self._by_class.index_add_(0, outputs["labels"].clamp(min=0), known.to(self._by_class))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share of right answers, in percent."""
        right, seen = sum_over_processes(self._counts)
        if seen:
            pl_module.log(PROBE, 100 * right / seen, sync_dist=True, logger=False)
            largest = sum_over_processes(self._by_class).max()
            pl_module.log(LABELLED, seen, sync_dist=True, logger=False)
            pl_module.log(LARGEST_CLASS, 100 * largest / seen, sync_dist=True, logger=False)

    def weights(self) -> dict[str, Tensor]:
        """Return weight and bias, on the CPU."""
        return {name: value.detach().cpu() for name, value in self.classifier.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what an interrupted run needs to continue."""
        return {
            "classifier": self.classifier.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.classifier.load_state_dict(state_dict["classifier"])
        self._restored = state_dict["optimizer"]


class OnlineNeighbours(Callback):
    """The top-1 accuracy of k-NN among validation images.

    Each image is classified by the other validation images nearest to it, so the callback encodes
    no image itself. From a large split, only the first `KNN_IMAGES` of all processes are used.
    """

    def __init__(self, k: int, classes: int) -> None:
        self._k = k
        self._classes = classes
        self._features: list[Tensor] = []
        self._labels: list[Tensor] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard the features of the last validation."""
        self._features, self._labels = [], []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the features of labelled images."""
        if sum(map(len, self._features)) * trainer.world_size < KNN_IMAGES:
            known = outputs["labels"] != NO_LABEL
            self._features.append(outputs["h"][known].float())
            self._labels.append(outputs["labels"][known])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the accuracy, in percent, if there are enough images."""
        features = rows_of_all_processes(torch.cat(self._features), trainer)
        labels = rows_of_all_processes(torch.cat(self._labels), trainer).cpu()
        self._features, self._labels = [], []
        k = min(self._k, len(labels) - 1)
        if k < 1:
            return
        found = nearest(features, features, k=k, device=pl_module.device, exclude_self=True)
        shares = vote(found, labels, classes=self._classes, k=k, temperature=KNN_TEMPERATURE)
        right = (shares.argmax(dim=1) == labels).float().mean()
        # As a number: Lightning then puts it on the device, as NCCL requires.
        pl_module.log(KNN, 100 * right.item(), sync_dist=True, logger=False)
