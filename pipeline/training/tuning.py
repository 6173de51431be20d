"""Finding a learning rate and a batch size by trying, with Lightning's tuner.

The tuner doubles the batch until memory runs out. A GPU then raises an error, but on a CPU the
process is killed. So memory is estimated first, from the tensors of two small batches, and batches
that should not fit are not tried.
"""

import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.base.errors import TrainingError
from pipeline.training.train_options import TrainOptions
from pipeline.training.trainer import build_trainer, plain_lightning
from pipeline.training.trial import PlainFit, Trial, TrialBatches, Wanted

MEMORY_SHARE = 0.5  # of free memory; the estimate omits what a backward pass allocates
MEASURED_BATCHES = (16, 32)
LARGEST_BATCH = 8192
TRIAL_STEPS = 3
RATES = (1e-7, 1.0)
RATE_STEPS = 100


class _PlainModule(LightningModule):
    """A plain fit as a LightningModule, for the tuner."""

    def __init__(self, fit: PlainFit) -> None:
        super().__init__()
        self.network = fit.network
        self.loss = fit.loss
        self._optimizer = fit.optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        return self.loss(batch)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Restore the ratio of rates: the tuner sets one rate for all groups."""
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_factor", 1.0)

    def configure_optimizers(self) -> Optimizer:
        """Return the fit's optimiser."""
        return self._optimizer


def find(trial: Trial, wanted: Wanted, *, batch_size: int) -> dict[str, Any]:
    """Return the wanted values of `batch_size` and `lr`, each found by trying.

    The rate is for the found batch size, else for the given one. Raises TrainingError if nothing is
    found.
    """
    found: dict[str, Any] = {}
    if wanted.batch_size:
        found["batch_size"] = batch_size = find_batch_size(trial)
    if wanted.lr:
        found["lr"] = find_learning_rate(trial, batch_size)
    return found


def find_learning_rate(trial: Trial, batch_size: int) -> float:
    """Return the rate at which the loss falls fastest while the rate grows exponentially.

    Raises TrainingError if the loss falls nowhere.
    """
    with _trainer(trial.options) as trainer:
        finder = Tuner(trainer).lr_find(
            _module(trial),
            trial.loader(batch_size),
            min_lr=RATES[0],
            max_lr=RATES[1],
            num_training=RATE_STEPS,
            update_attr=False,
        )
    found = finder.suggestion() if finder is not None else None
    if found is None:
        raise TrainingError(
            "No learning rate made the objective fall in "
            f"{RATE_STEPS} steps from {RATES[0]:g} to {RATES[1]:g}: set it yourself."
        )
    return float(found)


def find_batch_size(trial: Trial) -> int:
    """Return the largest size that runs and should fit: the smallest tried, times a power of two.

    It is at most the number of samples. If these are fewer than the smallest size, they form one
    batch.
    """
    start = min(MEASURED_BATCHES[0], trial.samples)
    largest = start if trial.samples < MEASURED_BATCHES[1] else _largest_batch(trial)
    with _trainer(trial.options) as trainer:
        module: Any = _module(trial)
        module.batch_size = start
        module.train_dataloader = module.val_dataloader = lambda: trial.loader(module.batch_size)
        found = Tuner(trainer).scale_batch_size(
            module,
            mode="power",
            steps_per_trial=TRIAL_STEPS,
            init_val=start,
            max_val=largest,
        )
    return min(int(found or start), largest)


def _module(trial: Trial) -> LightningModule:
    made = trial.module()
    return _PlainModule(made) if isinstance(made, PlainFit) else made


@contextmanager
def _trainer(options: TrainOptions) -> Iterator[Trainer]:
    """Yield a trainer for one trial, with more epochs than the trial can use."""
    endless = options.model_copy(update={"epochs": RATE_STEPS + 1})
    with tempfile.TemporaryDirectory(prefix="mvmr-tuning-") as work, plain_lightning():
        yield build_trainer(endless, Path(work))


def _largest_batch(trial: Trial) -> int:
    with _trainer(trial.options) as trainer:
        device = trainer.strategy.root_device
        module: Any = _module(trial).to(device)

        def step(batches: TrialBatches) -> Tensor:
            batch = trainer.strategy.batch_to_device(next(iter(batches)), device)
            loss: Tensor = module.loss(batch)
            return loss

        taken = {size: taken_by(partial(step, trial.loader(size))) for size in MEASURED_BATCHES}
        return largest_batch(
            taken,
            fixed_bytes=fixed_memory(module),
            free_bytes=free_memory(device),
            samples=trial.samples,
        )


def largest_batch(
    taken_bytes: Mapping[int, int], *, fixed_bytes: int, free_bytes: int, samples: int
) -> int:
    """Return the largest power of two whose step should fit into `MEMORY_SHARE` of free memory.

    `taken_bytes` maps two batch sizes to the memory of a step, which is modelled as a multiple of
    the size plus a multiple of its square, for the distances between samples. The result is at
    most `LARGEST_BATCH` and `samples`. Raises TrainingError if the smaller size does not fit.
    """
    (small, low), (large, high) = sorted(taken_bytes.items())
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


def taken_by(step: Callable[[], Tensor]) -> int:
    """Return the peak memory, in bytes, of the tensors that `step` creates.

    It includes what autograd keeps for the backward pass of the returned loss.
    """
    peak = _Peak()
    with peak:
        loss = step()
    del loss
    return peak.bytes


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Measures the memory of the tensors that operations return, while they are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self._now = 0
        self._living: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages((args, kwargs)):  # tensors from before, such as weights
            self._count(storage, 0)
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            self._count(storage, storage.nbytes())
        return result

    def _count(self, storage: torch.UntypedStorage, taken: int) -> None:
        key = int(storage._cdata)
        if key in self._living:  # a view, or a result written in place
            return
        self._living[key] = taken
        self._now += taken
        self.bytes = max(self.bytes, self._now)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self._now -= self._living.pop(key)


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            yield leaf.untyped_storage()


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a device, or of the machine if that is the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def fixed_memory(module: torch.nn.Module) -> int:
    """Return the bytes of weights, their gradients and two moments."""
    return 4 * sum(p.numel() * p.element_size() for p in module.parameters())
