"""NumPy arrays and tensors, paths and progress, in the form that the library below takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mvmr.given_arguments import AtLeast, NoFile
from mvmr.python_words import in_words_of_python
from pipeline.base.errors import DataError
from pipeline.base.progress import Progress, Silent, Step, foresee

ArrayLike: TypeAlias = Tensor | npt.NDArray[Any]
PathText: TypeAlias = str | PathLike[str]
Folder: TypeAlias = Annotated[PathText, NoFile()]
Count: TypeAlias = Annotated[int, AtLeast(1)]
Bar: TypeAlias = bool | Progress | None

_EXACT_INTEGERS = 2**53
_NUMBERS = "biufc"  # kinds of NumPy's types
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def as_tensor(array: Any, what: str) -> Tensor:
    """Return an array as a tensor of the same numbers; raises DataError for anything else.

    Unsigned integers of 16 bits and more become int64, since torch does not compute with them, and
    numbers of more than 64 bits become float64.
    """
    if isinstance(array, np.ndarray):
        array = _from_numpy(array, what)
    if not isinstance(array, Tensor):
        raise DataError(
            f"{what} must be a NumPy array or a torch tensor of numbers; found "
            f"{type(array).__name__}."
        )
    if array.layout != torch.strided or array.is_quantized or array.is_meta:
        raise DataError(
            f"{what} must be a dense tensor with numbers in memory; found {array.dtype}, "
            f"{array.layout}, on {array.device}."
        )
    if array.dtype not in _UNSIGNED:
        return array
    signed = array.to(torch.int64)
    if (signed < 0).any():
        raise DataError(f"{what} must be integers below 2^63; found larger ones.")
    return signed


def as_real_rows(array: Any, what: str) -> Tensor:
    """Return an array of numbers as a tensor that is computed with as it is: integers as float64.

    Raises DataError for integers beyond 2^53, which float64 does not hold.
    """
    rows = as_tensor(array, what)
    if rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool:
        return rows
    if rows.numel() and int(rows.abs().max()) > _EXACT_INTEGERS:
        raise DataError(
            f"{what} must be integers up to 2^53, beyond which float64 does not hold them; found "
            "larger ones: subtract an offset."
        )
    return rows.double()


def _from_numpy(array: npt.NDArray[Any], what: str) -> Tensor:
    if array.dtype.kind not in _NUMBERS:
        raise DataError(
            f"{what} must be a NumPy array or a torch tensor of numbers; found an array of "
            f"{array.dtype}. Names of classes become numbers by numpy.unique(names, "
            "return_inverse=True)[1]."
        )
    if np.ma.is_masked(array):
        raise DataError(f"{what} must be whole; found a masked array: leave out what is masked.")
    if array.dtype.kind == "f" and array.dtype.itemsize > np.dtype(np.float64).itemsize:
        array = array.astype(np.float64)
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(plain if plain.flags.writeable else plain.copy())


@contextmanager
def watched(progress: Bar) -> Iterator[Progress]:
    """Yield what receives progress: a bar for True, silence for None, or the object itself."""
    if progress is True:
        from stages.terminal.console import Screen

        with Screen() as screen:
            yield _InWordsOfPython(screen.progress)
    elif isinstance(progress, Progress):
        yield _InWordsOfPython(progress)
    else:
        yield Silent()


class _InWordsOfPython:
    """Progress whose notes name calls instead of commands."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def start(self, what: str, total: int, unit: str, *, step: Step | None = None) -> None:
        """Begin a phase."""
        self._progress.start(what, total, unit, step=step)

    def advance(self, count: int, status: str = "") -> None:
        """Report that units are done."""
        self._progress.advance(count, status)

    def foresee(self, done: int) -> None:
        """Report units of pieces that are not done."""
        foresee(self._progress, done, f"{done:,} computed")

    def note(self, text: str) -> None:
        """Show one line, reworded."""
        self._progress.note(in_words_of_python(text))
