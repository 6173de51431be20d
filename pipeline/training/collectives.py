"""Collective operations: the sum, the maximum and the rows of all processes."""

import torch
from lightning import Trainer
from torch import Tensor, distributed


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes. All of them must call this."""
    if distributed.is_available() and distributed.is_initialized():
        value = value.clone()
        distributed.all_reduce(value)
    return value


def largest_over_processes(value: int, device: torch.device) -> int:
    """Return the largest `value` of all processes. All of them must call this."""
    if distributed.is_available() and distributed.is_initialized():
        shared = torch.tensor(value, device=device)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return int(shared)
    return value


def in_all_processes(value: bool, device: torch.device) -> bool:
    """Return whether `value` is true in every process. All of them must call this."""
    return not largest_over_processes(not value, device)


def rows_of_all_processes(rows: Tensor, trainer: Trainer) -> Tensor:
    """Return the rows (N, ...) of all processes; N may differ between them."""
    if trainer.world_size == 1:
        return rows
    counts = [
        torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(trainer.world_size)
    ]
    distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    most = int(torch.cat(counts).max())
    padded = rows.new_zeros((most, *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def is_of_others(error: RuntimeError) -> bool:
    """Return whether an error of a collective says that another process is gone, or is silent."""
    signs = ("gloo", "Timed out waiting", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, distributed.DistError) or any(sign in str(error) for sign in signs)
