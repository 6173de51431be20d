"""scikit-learn's digits: 1,797 scans of handwritten digits, 8 x 8, shipped with the library.

Source: UCI "Optical Recognition of Handwritten Digits", test set.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.base.options import added
from pipeline.datasets.files import png_of
from pipeline.datasets.source import Encoded, Item, Source, SourceOptions


class DigitsOptions(SourceOptions):
    """`dataset.source: {kind: digits}`; `margin` is the black border of each scan, in pixels."""

    kind: Literal["digits"] = "digits"
    margin: Annotated[int, Field(ge=0, le=64)] = added(0)

    def open(self) -> "Digits":
        """Load the scans from the installed library."""
        return Digits(self.margin)


class Digits(Source):
    """Grey PNGs; the 17 grey levels 0..16 become 0..255 without loss."""

    def __init__(self, margin: int = 0) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        scans = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        self._scans = np.pad(scans, ((0, 0), (margin, margin), (margin, margin)))
        stamp = f"margin {margin}" if margin else ""
        items = [Item(f"{i:04d}", int(label), stamp) for i, label in enumerate(digits.target)]
        self.classes = tuple(str(digit) for digit in range(10))
        self.splits = {"train": items}

    def read(self, item: Item) -> Encoded:
        """Return one scan as a PNG."""
        return png_of(self._scans[int(item.name)])
