"""Devices, and the cores that this process may use."""

import os
import platform
from pathlib import Path

import torch
from torch import Tensor

from pipeline.base.errors import ArgumentError


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
