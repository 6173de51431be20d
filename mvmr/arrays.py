"""NumPy arrays and tensors, paths and progress, in the form that the library below takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.base.errors import DataError
from pipeline.base.progress import Progress, Silent

if TYPE_CHECKING:
    from PIL import Image

ArrayLike: TypeAlias = Tensor | npt.NDArray[Any]
PathText: TypeAlias = str | PathLike[str]
Bar: TypeAlias = bool | Progress | None
ImageLike: TypeAlias = "Image.Image | PathText"


def as_tensor(array: Any, what: str) -> Tensor:
    """Return an array as a tensor of the same numbers; raises DataError for anything else."""
    if isinstance(array, Tensor):
        return array
    if isinstance(array, np.ndarray) and array.dtype != object:
        plain = np.ascontiguousarray(array)
        return torch.from_numpy(plain if plain.flags.writeable else plain.copy())
    raise DataError(
        f"{what} must be a NumPy array or a torch tensor of numbers; found {type(array).__name__}."
    )


@contextmanager
def watched(progress: Bar) -> Iterator[Progress]:
    """Yield what receives progress: a bar for True, silence for None, or the object itself."""
    if progress is True:
        from stages.terminal.console import Screen

        with Screen() as screen:
            yield screen.progress
    else:
        yield progress or Silent()
