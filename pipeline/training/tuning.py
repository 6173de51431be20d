"""Finding a learning rate and a batch size by trying, with Lightning's tuner.

The tuner doubles the batch until memory runs out, which a GPU answers with an error and a CPU
with the end of the process. So memory is estimated first, from what two small batches keep for
the backward pass, and larger batches than fit are not tried.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import psutil
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor

from pipeline.errors import TrainingError
from pipeline.training.trainer import plain_lightning

MEMORY_SHARE = 0.5  # of what is free, as the estimate leaves out what a step allocates and frees
LARGEST_BATCH = 8192
TRIAL_STEPS = 3
RATES = (1e-7, 1.0)
RATE_STEPS = 100


class Loader(Protocol):
    """What the tuner iterates over, as often as it asks."""

    def __iter__(self) -> Any: ...
    def __len__(self) -> int: ...


def find_learning_rate(module: LightningModule, loader: Loader, trainer: Trainer) -> float:
    """Return the rate at which the loss falls fastest while the rate grows exponentially.

    `module` and `trainer` are used up. Raises TrainingError if the loss falls nowhere.
    """
    with plain_lightning():
        finder = Tuner(trainer).lr_find(
            module,
            loader,
            min_lr=RATES[0],
            max_lr=RATES[1],
            num_training=RATE_STEPS,
            update_attr=False,
        )
    found = finder.suggestion() if finder is not None else None
    if found is None:
        raise TrainingError(
            "No learning rate made the objective fall in "
            f"{RATE_STEPS} steps from {RATES[0]:g} to {RATES[1]:g}: set train.lr yourself."
        )
    return float(found)


def find_batch_size(
    module: LightningModule,
    loader: Callable[[int], Loader],
    trainer: Trainer,
    *,
    largest: int,
    start: int = 16,
) -> int:
    """Return the largest power of two times `start`, at most `largest`, that runs.

    `loader(size)` gives batches of a size. `module` and `trainer` are used up.
    """
    trial: Any = module
    trial.batch_size = start
    trial.train_dataloader = trial.val_dataloader = lambda: loader(trial.batch_size)
    with plain_lightning():
        found = Tuner(trainer).scale_batch_size(
            trial,
            mode="power",
            steps_per_trial=TRIAL_STEPS,
            init_val=start,
            max_val=largest,
        )
    return min(int(found or start), largest)


def largest_batch(
    kept_bytes: Mapping[int, int], *, fixed_bytes: int, free_bytes: int, samples: int
) -> int:
    """Return the largest power of two whose step should fit into `MEMORY_SHARE` of free memory.

    `kept_bytes` says what batches of two sizes kept for their backward pass: it grows with the
    batch and, by the distances between samples, with its square. The answer is at most
    `LARGEST_BATCH` and `samples`. Raises TrainingError if not even the smaller one fits.
    """
    (small, low), (large, high) = sorted(kept_bytes.items())
    square = max(0.0, (high / large - low / small) / (large - small))
    linear = low / small - square * small
    budget = MEMORY_SHARE * free_bytes - fixed_bytes

    def fits(size: int) -> bool:
        return linear * size + square * size**2 <= budget and size <= min(samples, LARGEST_BATCH)

    if not fits(small):
        raise TrainingError(
            f"A batch of {small} does not fit into {free_bytes / 1e9:.1f} GB of free memory: "
            "choose a smaller student or smaller images."
        )
    size = small
    while fits(2 * size):
        size *= 2
    return size


def kept_for_backward(step: Callable[[], Tensor]) -> int:
    """Return the bytes that autograd keeps between the forward and the backward of `step`."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step()
    del loss
    return sum(storages.values())


def free_memory(device: torch.device) -> int:
    """Return the bytes that a device has left, or the machine where that is the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def fixed_memory(module: torch.nn.Module) -> int:
    """Return the bytes of weights, their gradients and two moments."""
    return 4 * sum(p.numel() * p.element_size() for p in module.parameters())
