"""How long each epoch of a run takes, in its steps and after them."""

import time
from dataclasses import dataclass
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


@dataclass(frozen=True)
class EpochTime:
    """Seconds that an epoch spent on its steps, and then on validation, selection and saving."""

    steps: int
    step_seconds: float
    rest_seconds: float


class EpochClock(Callback):
    """Measures the epochs that this process trains from their first step, by its clock."""

    def __init__(self) -> None:
        self.times: list[EpochTime] = []
        self._steps = 0
        self._began: float | None = None  # none while an interrupted epoch is continued
        self._stepped = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the epoch before, and start one."""
        self._end()
        self._began = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count a step."""
        self._steps += 1
        self._stepped = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the last epoch."""
        self._end()

    def _end(self) -> None:
        if self._began is not None and self._steps:
            rest = time.perf_counter() - self._stepped
            self.times.append(EpochTime(self._steps, self._stepped - self._began, rest))
        self._steps = 0
