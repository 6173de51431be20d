"""Saving a run so that it can resume: after each epoch, in between, and when it is stopped.

Two files are kept, the newest and the one before it. A new file is written under a temporary name
and then renamed, so the process may be killed at any moment. If the newest file is damaged, only
the work since the older one is lost.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from pipeline.base.errors import TrainingError
from pipeline.base.progress import Progress
from pipeline.base.signals import Stop
from pipeline.training.collectives import largest_over_processes
from pipeline.training.train_options import SavingOptions

RESUME, PREVIOUS = "resume.ckpt", "resume.previous.ckpt"
_GO_ON, _SAVE, _STOP = 0, 1, 2


def newest_checkpoint(work: Path, progress: Progress) -> Path | None:
    """Return the newest readable checkpoint in `work`, if any; a damaged one is reported."""
    for path in (work / RESUME, work / PREVIOUS):
        if not path.exists():
            continue
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # a damaged file fails in many ways
            progress.note(f"{path} is damaged ({type(error).__name__}); trying the one before it.")
        else:
            return path
    return None


class Saving(Checkpoint):
    """Saves the run into `work` between optimiser steps.

    It must be the trainer's last callback, so that it also saves what the others have counted.
    `last_saved` is the step of the last save.
    """

    def __init__(
        self,
        work: Path,
        options: SavingOptions,
        stop: Stop,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._options = options
        self._stop = stop
        self._clock = clock
        self._saved_at = clock()
        self.last_saved: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and listen to signals.

        Lightning sets its own answer to SIGTERM before this hook. That answer would leave several
        processes waiting for each other, so it is replaced here.
        """
        self._stop.listen()
        self._saved_at = self._clock()
        self.last_saved = trainer.global_step or None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if it is time, but neither within an accumulation nor right before a validation."""
        last = batch_idx + 1 == trainer.num_training_batches
        if last or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        wanted = largest_over_processes(self._wanted(trainer), pl_module.device)
        if wanted != _GO_ON:
            self._save(trainer, pl_module)
        if wanted == _STOP:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; raise KeyboardInterrupt if the run was asked to stop."""
        self._save(trainer, pl_module)
        if largest_over_processes(self._stop.asked, pl_module.device):
            raise KeyboardInterrupt

    def _wanted(self, trainer: Trainer) -> int:
        if self._stop.asked:
            return _STOP
        steps = self._options.steps
        due = steps is not None and trainer.global_step % steps == 0
        late = self._clock() - self._saved_at >= 60 * self._options.minutes
        return _SAVE if due or late else _GO_ON

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names, weights = zip(*pl_module.named_parameters(), strict=True)
        finite = torch.stack([torch.isfinite(weight).all() for weight in weights]).tolist()
        for name, good in zip(names, finite, strict=True):
            if not good:
                raise TrainingError(
                    f"The weights {name} are not finite after step {trainer.global_step}."
                )
        temporary, target = self._work / f".{RESUME}", self._work / RESUME
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            if target.exists():
                target.replace(self._work / PREVIOUS)
            temporary.replace(target)
        self._saved_at, self.last_saved = self._clock(), trainer.global_step
