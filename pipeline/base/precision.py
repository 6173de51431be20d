"""Arithmetic in full float32, whatever the surrounding settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply and convolve float32 tensors in float32: no autocast, no TF32, no bfloat16.

    With TF32's 11 bits, the difference |x|^2 + |y|^2 - 2xy would cancel to nothing. The settings
    of the process are restored at the end.
    """
    backends: Any = torch.backends
    settings = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
    )
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
