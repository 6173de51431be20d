"""The online probe: a linear classifier that learns beside the encoder and cannot touch it."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from pipeline.loading.batch import NO_LABEL

METRIC = "validation/probe_top1"


class OnlineProbe(Callback):
    """Learns on detached features of training batches, scored on validation features.

    It has an optimiser of its own and adds nothing to the loss. Samples without a label are
    left out.
    """

    def __init__(self, width: int, classes: int, *, lr: float, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.classifier = nn.Linear(width, classes)
        self._optimizer = torch.optim.Adam(self.classifier.parameters(), lr=lr)
        self._restored: dict[str, Any] | None = None
        self._correct = self._seen = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the encoder to its device; only then can the optimiser's state follow."""
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
        if not known.any():
            return
        with torch.enable_grad(), torch.autocast(pl_module.device.type, enabled=False):
            logits = self.classifier(outputs["h"][known].float())
            loss = F.cross_entropy(logits, outputs["labels"][known])
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._optimizer.step()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._correct = self._seen = 0

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
        self._correct += int((guesses == outputs["labels"][known]).sum())
        self._seen += int(known.sum())

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share of right answers, in percent."""
        if self._seen:
            score = torch.tensor(100 * self._correct / self._seen)
            pl_module.log(METRIC, score, sync_dist=True)

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
        """Continue from what `state_dict` returned."""
        self.classifier.load_state_dict(state_dict["classifier"])
        self._restored = state_dict["optimizer"]
