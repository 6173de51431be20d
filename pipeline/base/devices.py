"""Devices, and the cores that this process may use."""

import os
import platform
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipeline.base.errors import ArgumentError

Network = TypeVar("Network", bound=nn.Module)
TOLERANT = ("open_clip", "pipeline", "timm", "torch", "torchvision")  # of any layout in memory


def device_from(name: str) -> torch.device:
    """Return the device called `name`; "auto" is the first GPU, or the CPU if there is none.

    Raises ArgumentError if there is no such device, or it cannot be used.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ArgumentError(
            f"A device is auto, cpu, or one that torch can use here, such as cuda:0; found "
            f"{name!r} ({reason[:100]})."
        ) from error
    return device


def available_cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def gpu_name() -> str:
    """Return the name of the first GPU, "" where there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def cpu_name() -> str:
    """Return the name of the CPU, or of its architecture where the system does not tell."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def sent(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a CPU tensor is sent without making the host wait for a GPU."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def layout_on(device: torch.device, network: nn.Module) -> torch.memory_format:
    """Return the layout in memory in which a frozen network is faster on a device.

    On a CPU, convolutions are faster with channels last. One alone, which cuts patches, is not.
    Code from elsewhere may rely on the usual layout, as `view` does, and keeps it.
    """
    modules = [*network.modules()]
    convolutions = sum(isinstance(module, nn.Conv2d) for module in modules)
    known = all(type(module).__module__.partition(".")[0] in TOLERANT for module in modules)
    last = device.type == "cpu" and convolutions > 1 and known
    return torch.channels_last if last else torch.contiguous_format


def placed(network: Network, device: torch.device) -> Network:
    """Move a network that will not train to a device, in the layout that is faster there."""
    return network.to(device).to(memory_format=layout_on(device, network))
