"""SHA-256 digests of JSON values, of files and of weights."""

import hashlib
import json
from typing import TYPE_CHECKING

from pipeline.base.locations import Location

if TYPE_CHECKING:
    from torch import nn

READ_BYTES = 1 << 20


def digest(value: object) -> str:
    """Return the SHA-256 (hex) of a JSON value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of(path: Location) -> str:
    """Return the SHA-256 (hex) of a file, read in chunks."""
    summary = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            summary.update(piece)
    return summary.hexdigest()


def state_digest(network: "nn.Module") -> str:
    """Return the SHA-256 (hex) of a network's names, types, shapes and values.

    It does not depend on the file that the weights came from, or on its format.
    """
    import torch

    summary = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        summary.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        summary.update(memoryview(raw.numpy()))
    return summary.hexdigest()
