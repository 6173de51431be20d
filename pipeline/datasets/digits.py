"""scikit-learn's digits: 1,797 scans of handwritten digits, 8 x 8, shipped with the library.

Source: UCI "Optical Recognition of Handwritten Digits", test set.
"""

import importlib.util
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from pipeline.base.errors import DataError
from pipeline.base.options import added
from pipeline.datasets.files import png_of
from pipeline.datasets.source import Encoded, Item, Source, SourceOptions

SHIPPED = Path("datasets", "data", "digits.csv.gz")  # in scikit-learn's package


class DigitsOptions(SourceOptions):
    """`dataset.source: {kind: digits}`; `margin` is the black border of each scan, in pixels."""

    kind: Literal["digits"] = "digits"
    margin: Annotated[int, Field(ge=0, le=64)] = added(0)

    def open(self) -> "Digits":
        """Load the scans from the installed library. Raises DataError if it does not have them."""
        return Digits(self.margin)


class Digits(Source):
    """Grey PNGs; the 17 grey levels 0..16 become 0..255 without loss."""

    def __init__(self, margin: int = 0) -> None:
        # Importing scikit-learn takes two seconds, reading its file none.
        rows = np.loadtxt(_shipped(), delimiter=",")
        scans = np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        self._scans = np.pad(scans, ((0, 0), (margin, margin), (margin, margin)))
        stamp = f"margin {margin}" if margin else ""
        items = [Item(f"{i:04d}", int(label), stamp) for i, label in enumerate(rows[:, -1])]
        self.classes = tuple(str(digit) for digit in range(10))
        self.splits = {"train": items}

    def read(self, item: Item) -> Encoded:
        """Return one scan as a PNG."""
        return png_of(self._scans[int(item.name)])


def _shipped() -> Path:
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        if (path := Path(folder) / SHIPPED).is_file():
            return path
    raise DataError(
        f"The digits are the file {SHIPPED} of scikit-learn's package, which is not there: install "
        "scikit-learn again."
    )
