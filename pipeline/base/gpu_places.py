"""Dividing the GPUs of a host among processes that do not know of each other.

Each process takes a place: a locked file in the temporary folder. A lock ends with its process, so
the place of a process that has died is free again.
"""

import fcntl
import os
import tempfile
from functools import cache
from itertools import count
from pathlib import Path
from typing import IO

import torch

_held: list[IO[str]] = []  # closing a file would end its lock


@cache
def own_gpu() -> int | None:
    """Return the number of this process's GPU, None if there is none.

    Processes of the same user on this host get different GPUs as long as there are enough, and
    then share them evenly. The choice stays until the process ends.
    """
    gpus = torch.cuda.device_count()
    for round_number in count() if gpus else ():
        for number in range(gpus):
            if _take(f"{_name(number)}-{round_number}"):
                return number
    return None


def _name(number: int) -> str:
    """Return a name of a GPU that processes with other CUDA_VISIBLE_DEVICES use for it too."""
    return str(getattr(torch.cuda.get_device_properties(number), "uuid", number))


def _take(name: str) -> bool:
    """Lock the place `name`, unless another process holds it."""
    path = Path(tempfile.gettempdir()) / f"mvmr-gpu-{os.getuid()}-{name}.lock"
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    _held.append(file)
    return True
