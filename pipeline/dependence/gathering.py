"""Gathering the rows of all processes, with gradients."""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


def gather_rows(x: Tensor) -> Tensor:
    """Return the rows (W B, D) of all W ranks, in order of rank, from each rank's rows (B, D).

    Every rank must call it, with equally many rows. The backward pass sums the gradients of all
    ranks. If parameter gradients are then averaged over ranks, as DistributedDataParallel does,
    they are those of one process with the whole batch. Without a process group, returns `x`.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        every = x.new_empty((distributed.get_world_size() * len(x), *x.shape[1:]))
        distributed.all_gather_into_tensor(every, x.contiguous())
        return every

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        own = gradient.new_empty((ctx.rows, *gradient.shape[1:]))
        distributed.reduce_scatter_tensor(own, gradient.contiguous())
        return own
