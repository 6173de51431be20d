"""An exponential moving average of the encoder's weights, validated and kept in their place."""

from copy import deepcopy
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn


class Averaging(Callback):
    """After each optimiser step, average = decay * average + (1 - decay) * weights.

    Buffers, such as the statistics of norms, are copied. During validation the encoder holds the
    average, so callbacks that read the encoder then must come before this one.
    """

    def __init__(self, encoder: nn.Module, decay: float) -> None:
        self._encoder = encoder
        self._decay = decay
        self._average = deepcopy(encoder).requires_grad_(requires_grad=False)
        self._own: dict[str, Tensor] | None = None
        self._steps = 0

    def weights(self) -> dict[str, Tensor]:
        """Return the average, with the keys of the encoder's state dict."""
        weights: dict[str, Tensor] = self._average.state_dict()
        return weights

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the average to the encoder's device."""
        self._average.to(pl_module.device)
        self._steps = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Update the average if this batch completed an optimiser step."""
        if trainer.global_step != self._steps:
            self._steps = trainer.global_step
            self._update()

    @torch.no_grad()
    def _update(self) -> None:
        average: list[Tensor] = list(self._average.parameters())
        own: list[Tensor] = list(self._encoder.parameters())
        torch._foreach_lerp_(average, own, 1 - self._decay)
        for kept, value in zip(self._average.buffers(), self._encoder.buffers(), strict=True):
            kept.copy_(value)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the average into the encoder."""
        self._own = {name: v.detach().clone() for name, v in self._encoder.state_dict().items()}
        self._encoder.load_state_dict(self.weights())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the encoder's own weights."""
        if self._own is not None:
            self._encoder.load_state_dict(self._own)
            self._own = None

    def state_dict(self) -> dict[str, Any]:
        """Return the average."""
        return {"average": self.weights()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._average.load_state_dict(state_dict["average"])
