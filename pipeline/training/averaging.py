"""An exponential moving average of the encoder's weights, validated and kept in their place."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Averaging(Callback):
    """After each optimiser step, average = decay * average + (1 - decay) * weights.

    Buffers, such as the statistics of norms, are copied. During validation the encoder holds the
    average, so callbacks that read the encoder then must come before this one.
    """

    def __init__(self, encoder: nn.Module, decay: float) -> None:
        self._encoder = encoder
        self._average = AveragedModel(
            encoder,
            multi_avg_fn=get_ema_multi_avg_fn(decay),  # type: ignore[no-untyped-call]
        )
        self._average.n_averaged.fill_(1)  # the average starts as the initial weights
        self._own: dict[str, Tensor] | None = None
        self._steps = 0

    def weights(self) -> dict[str, Tensor]:
        """Return the average, with the keys of the encoder's state dict."""
        weights: dict[str, Tensor] = self._average.module.state_dict()
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
            self._average.update_parameters(self._encoder)

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
        self._average.module.load_state_dict(state_dict["average"])
