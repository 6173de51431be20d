"""The mean over all processes, with gradients."""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


def process_count() -> int:
    """Return the number of processes of the process group, 1 if there is none."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


def mean_of_processes(x: Tensor) -> Tensor:
    """Return the mean of `x` over all ranks. Every rank must call it, with the same shape.

    The backward pass is that of `gather_rows`: if parameter gradients are averaged over ranks,
    they are those of one process that holds all of it. Without a process group, returns `x`.
    """
    if process_count() == 1:
        return x
    mean: Tensor = _Mean.apply(x)
    return mean


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return _mean(x)

    @staticmethod
    @once_differentiable
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _mean(gradient)


def _mean(x: Tensor) -> Tensor:
    total = x.detach().contiguous().clone()
    distributed.all_reduce(total)
    return total.div_(distributed.get_world_size())
