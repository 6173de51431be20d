"""What is to be found by trying, and by which fit; `tuning.py` finds it, with Lightning."""

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
    """What the tuner iterates over, as often as it asks."""

    def __iter__(self) -> Any: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Wanted:
    """What is to be found by trying."""

    lr: bool = False
    batch_size: bool = False

    def __bool__(self) -> bool:
        return self.lr or self.batch_size


@dataclass(frozen=True)
class PlainFit:
    """A network and its loop: `loss` maps a batch to what a step of `optimizer` lowers.

    Groups of the optimiser may have a `lr_factor`.
    """

    network: nn.Module
    loss: Callable[[Any], Tensor]
    optimizer: Optimizer


@dataclass(frozen=True)
class Trial:
    """A fit that is begun as often as asked, and thrown away each time.

    `module()` is a new plain fit, or a new LightningModule whose `loss(batch)` is what a step
    lowers; `loader(size)` gives batches of a size, of `samples` samples. `options` say on what
    device, how precise, and so on.
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
