"""An exponential moving average of the encoder's weights, validated and kept instead of them."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn


class Averaging(Callback):
    """After each optimiser step, average = decay * average + (1 - decay) * weights.

    Buffers, such as the statistics of norms, are taken over as they are. During validation the
    encoder holds the average; it must so come after callbacks that then look at the encoder.
    """

    def __init__(self, encoder: nn.Module, decay: float) -> None:
        self._encoder = encoder
        self._decay = decay
        self._average = {name: v.detach().clone() for name, v in encoder.state_dict().items()}
        self._own: dict[str, Tensor] | None = None
        self._steps = 0

    def weights(self) -> dict[str, Tensor]:
        """Return the average, by the names of the encoder's state."""
        return self._average

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the encoder to its device."""
        self._average = {name: value.to(pl_module.device) for name, value in self._average.items()}
        self._steps = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the average, if this batch completed a step."""
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        learned = {name for name, _ in self._encoder.named_parameters()}
        for name, value in self._encoder.state_dict().items():
            if name in learned:
                self._average[name].lerp_(value, 1 - self._decay)
            else:
                self._average[name].copy_(value)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average into the encoder."""
        self._own = {name: v.detach().clone() for name, v in self._encoder.state_dict().items()}
        self._encoder.load_state_dict(self._average)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the encoder's own weights back."""
        if self._own is not None:
            self._encoder.load_state_dict(self._own)
            self._own = None

    def state_dict(self) -> dict[str, Any]:
        """Return the average."""
        return {"average": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._average = state_dict["average"]
