"""Arithmetic in full float32, whatever the surrounding settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply and convolve float32 tensors in float32: no autocast, no TF32, no bfloat16.

    With TF32's 11 bits, the difference |x|^2 + |y|^2 - 2xy would cancel to nothing. The settings
    are those of the process: they are restored when the last of its threads has left.
    """
    _settings.enter()
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _settings.leave()


class _Settings:
    """The settings of the process, and how many contexts need them changed."""

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._before: list[tuple[Any, str]] = []

    def enter(self) -> None:
        backends: Any = torch.backends
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            changed = (
                backends.cuda.matmul,
                backends.cudnn.conv,
                backends.mkldnn.matmul,
                backends.mkldnn.conv,
            )
            self._before = [(setting, setting.fp32_precision) for setting in changed]
            for setting in changed:
                setting.fp32_precision = "ieee"

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for setting, value in self._before:
                    setting.fp32_precision = value


_settings = _Settings()
