"""The number types of stored features, and how a Zarr array holds each of them.

    float32, float16   unchanged
    bfloat16           its 16 bits, as uint16: the upper half of a float32
    int8               offset + scale * number, with one offset and one scale per column

One value of each type marks gaps: a chunk that was never written reads as this value, and no
number is ever encoded as it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.base.errors import ArgumentError, StoreError, unknown_name
from pipeline.representations.storing import StoredType

Array = npt.NDArray[Any]

# Int8 covers the range of the fitted sample, widened by this factor for other images.
INT8_HEADROOM = 1.25
INT8_LARGEST = 127


@dataclass(frozen=True)
class ArrayType:
    """How an array holds a stored type: array type, gap value, type as read, meaning in words."""

    array: str
    gap: float | int
    read_as: str
    meaning: str


ARRAY_TYPES: Mapping[StoredType, ArrayType] = {
    "float32": ArrayType("float32", float("nan"), "float32", "as it is"),
    "float16": ArrayType("float16", float("nan"), "float16", "as it is"),
    "bfloat16": ArrayType("uint16", 0x7FC0, "float32", "the upper 16 bits of a float32"),
    "int8": ArrayType(
        "int8",
        -128,
        "float32",
        "offset + scale * number, column by column; see reduction/offset and reduction/scale",
    ),
}


@dataclass(frozen=True, eq=False)
class Encoding:
    """Encodes rows (B, K) of floats as an array holds them, and decodes them.

    `offset` and `scale` (K,) are for int8 only, which needs them.
    """

    stored_type: StoredType
    offset: Array | None = None
    scale: Array | None = None

    def __post_init__(self) -> None:
        """Raise ArgumentError for an unknown type, or an int8 that was not fitted."""
        if self.stored_type not in ARRAY_TYPES:
            raise ArgumentError(unknown_name("stored type", self.stored_type, ARRAY_TYPES))

    @classmethod
    def fit(cls, stored_type: StoredType, sample: Array) -> "Encoding":
        """Fit an encoding to `sample` (N, K), some of the rows to store."""
        if stored_type != "int8":
            return cls(stored_type)
        _refuse(~np.isfinite(sample), "is not finite")
        low, high = sample.min(0).astype(np.float64), sample.max(0).astype(np.float64)
        reach = INT8_HEADROOM * (high - low) / 2
        scale = np.where(reach > 0, reach / INT8_LARGEST, 1.0)
        return cls(stored_type, ((low + high) / 2).astype(np.float32), scale.astype(np.float32))

    @classmethod
    def load(cls, stored_type: StoredType, arrays: Mapping[str, Array]) -> "Encoding":
        """Restore an encoding from its `arrays()`; StoreError if one is missing."""
        if stored_type != "int8":
            return cls(stored_type)
        try:
            return cls(stored_type, arrays["offset"], arrays["scale"])
        except KeyError as error:
            raise StoreError(f"The stored encoding lacks {error}: extract it again.") from error

    def arrays(self) -> dict[str, Array]:
        """Return what `load` needs besides the stored type."""
        if self.offset is None or self.scale is None:
            return {}
        return {"offset": self.offset, "scale": self.scale}

    @property
    def itemsize(self) -> int:
        """Bytes per stored number."""
        return np.dtype(ARRAY_TYPES[self.stored_type].array).itemsize

    def first(self, columns: int) -> "Encoding":
        """Return the encoding of the first `columns` columns only."""
        if self.offset is None or self.scale is None:
            return self
        return Encoding(self.stored_type, self.offset[:columns], self.scale[:columns])

    def encode(self, rows: Array) -> Array:
        """Encode rows (B, K) as numbers of the array's type, rounded to the nearest.

        Raises StoreError if a number is not finite, or is beyond the range of a floating-point
        type; int8 saturates instead. Raises ArgumentError unless they are a real matrix, of as many
        columns as an encoding was fitted to.
        """
        if self.stored_type == "int8" and self.scale is None:
            raise ArgumentError("An encoding in int8 must be fitted to a sample first.")
        fitted = None if self.scale is None else len(self.scale)
        if rows.ndim != 2 or np.iscomplexobj(rows) or fitted not in (None, rows.shape[1]):
            raise ArgumentError(
                f"Rows to encode are a real matrix{'' if fitted is None else f' of {fitted} '}"
                f"columns; found {rows.dtype} of shape {rows.shape}."
            )
        rows = np.asarray(rows, dtype=np.float32)
        _refuse(~np.isfinite(rows), "is not finite")
        if self.offset is not None and self.scale is not None:
            steps = np.rint((rows - self.offset) / self.scale)
            return steps.clip(-INT8_LARGEST, INT8_LARGEST).astype(np.int8)
        if self.stored_type == "bfloat16":
            bits = torch.from_numpy(rows).bfloat16().view(torch.int16)
            encoded: Array = bits.numpy().view(np.uint16)
        else:
            with np.errstate(over="ignore"):
                encoded = rows.astype(self.stored_type)
        beyond = f"is beyond the range of {self.stored_type}; set its dtype to float32"
        _refuse(~np.isfinite(self.decode(encoded)), beyond)
        return encoded

    def decode(self, numbers: Array) -> Array:
        """Decode numbers (B, K) of the array's type to floats, float16 or float32."""
        if self.offset is not None and self.scale is not None:
            decoded: Array = self.offset + self.scale * numbers.astype(np.float32)
        elif self.stored_type == "bfloat16":
            bits = torch.from_numpy(np.ascontiguousarray(numbers).view(np.int16))
            decoded = bits.view(torch.bfloat16).float().numpy()
        else:
            decoded = numbers
        return decoded


def _refuse(bad: Array, reason: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad.any(axis=1))[0])
        raise StoreError(f"A number of row {row} {reason}.")
