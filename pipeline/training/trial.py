"""The values to find by trying, and the fit to try them on; `tuning.py` finds them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.training.train_options import ParallelOptions, TrainOptions

if TYPE_CHECKING:
    from lightning import LightningModule


class TrialBatches(Protocol):
    """Batches that the tuner may iterate over repeatedly."""

    def __iter__(self) -> Any: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Wanted:
    """Which values to find by trying."""

    lr: bool = False
    batch_size: bool = False

    def __bool__(self) -> bool:
        return self.lr or self.batch_size


@dataclass(frozen=True)
class PlainFit:
    """A network and its fit: `optimizer` minimises `loss`, which maps a batch to a scalar.

    Groups of the optimiser may have an `lr_factor`, the multiple of the rate that they learn at.
    """

    network: nn.Module
    loss: Callable[[Any], Tensor]
    optimizer: Optimizer


@dataclass(frozen=True)
class Trial:
    """A fit that the tuner starts as often as it needs, and discards each time.

    `module()` returns a new plain fit, or a new LightningModule whose `loss(batch)` is minimised.
    `loader(size)` returns batches of `size` from `samples` samples. `options` set device, precision
    and so on.
    """

    module: "Callable[[], PlainFit | LightningModule]"
    loader: Callable[[int], TrialBatches]
    samples: int
    options: TrainOptions


def plain_trial_options(device: torch.device) -> TrainOptions:
    """Return the options of a trial in float32 on one device."""
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    parallel = ParallelOptions.model_validate({"accelerator": accelerator})
    return TrainOptions(epochs=1, lr=1.0, parallel=parallel)
