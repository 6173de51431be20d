"""Checks of what a function is given: another form would be turned into some other number."""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from pipeline.base.errors import ArgumentError, DataError
from pipeline.base.text import counted

_ROWS_AT_ONCE = 65_536


def require_tensor(x: object, what: str) -> None:
    """Raise ArgumentError unless `x` is a tensor."""
    if not isinstance(x, Tensor):
        remedy = " Make it one by torch.from_numpy." if type(x).__name__ == "ndarray" else ""
        raise ArgumentError(f"{what} must be a torch tensor; found {type(x).__name__}.{remedy}")


def require_place(number: object, what: str) -> None:
    """Raise ArgumentError unless `number` is a whole number or a slice, by which rows are taken."""
    if not isinstance(number, Integral | slice):
        raise ArgumentError(
            f"{what} are taken by number or by slice, as in rows[10:20]; found {number!r}."
        )


def place_of(number: int, count: int, what: str) -> int:
    """Return the place, from 0, of a number that may count from the end; else raise IndexError."""
    if not -count <= number < count:
        raise IndexError(f"There are {count:,} {what}, from 0 to {count - 1:,}; found {number}.")
    return range(count)[number]


def require_finite(x: Tensor, what: str) -> None:
    """Raise ArgumentError if a number is NaN or infinite; under `vmap` that cannot be known."""
    try:
        bad = (~torch.isfinite(x.detach())).flatten(1).any(1).nonzero().flatten().tolist()
    except RuntimeError:  # raised by a transform of torch.func, for a look at the values
        return
    if bad:
        raise ArgumentError(f"{what} must be finite; row {bad[0]} holds NaN or infinity.")


def require_matrix(x: Tensor, what: str) -> None:
    """Raise ArgumentError unless `x` is a matrix (B, D) of real numbers, with D at least 1."""
    require_tensor(x, what)
    if x.ndim != 2 or not x.shape[1] or x.is_complex():
        raise ArgumentError(
            f"{what} must be a matrix (B, D) of real numbers; found {x.dtype} of shape "
            f"{tuple(x.shape)}."
        )


def require_width(x: Tensor, width: int) -> None:
    """Raise ArgumentError unless `x` is a matrix (B, width) of real numbers."""
    require_matrix(x, "Vectors")
    if x.shape[1] != width:
        raise ArgumentError(f"Vectors must have {width} numbers each; found {x.shape[1]}.")


def require_floating(images: Tensor, what: str, *, dimensions: int = 4) -> None:
    """Raise ArgumentError unless images have that many dimensions and are floating-point."""
    require_tensor(images, f"What {what[0].lower()}{what[1:]} takes")
    if images.ndim < dimensions or not images.is_floating_point():
        raise ArgumentError(
            f"{what} takes floating-point images ({'B, C, ' * (dimensions == 4)}H, W); found "
            f"{images.dtype} of shape {tuple(images.shape)}."
        )


def require_features(features: Tensor) -> None:
    """Raise DataError unless `features` is a non-empty, floating, finite matrix (N, D)."""
    require_tensor(features, "Features")
    if features.ndim != 2 or not features.numel() or not features.is_floating_point():
        raise DataError(
            "Expected floating-point features of shape (images, width); "
            f"found {features.dtype} of shape {tuple(features.shape)}."
            + (" Write features[:, None] for one number per image." * (features.ndim == 1))
        )
    first = 0
    for rows in torch.split(features, _ROWS_AT_ONCE):
        bad = (~torch.isfinite(rows)).any(dim=1).nonzero().flatten()
        if len(bad):
            raise DataError(
                f"Features must be finite; row {first + int(bad[0])} holds NaN or infinity. "
                "Has the training diverged?"
            )
        first += len(rows)


def require_one_width(*features: Tensor) -> None:
    """Raise DataError unless all features (N, D) have the same D."""
    widths = [part.shape[1] for part in features]
    if len(set(widths)) > 1:
        raise DataError(
            f"Features that are compared need one width; found {', '.join(map(str, widths))}."
        )


def require_classes(labels: Tensor, what: str, *, rows: int, classes: int) -> None:
    """Raise DataError unless `labels` (rows,) are integers from 0 to `classes` - 1."""
    require_shape(labels, what, (rows,))
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"Expected integer {what}; found {labels.dtype}.")
    if rows and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(
            f"Expected {what} from 0 to {classes - 1}; found {int(labels.min())} to "
            f"{int(labels.max())}."
        )


def require_shape(x: Tensor, what: str, shape: Sequence[int]) -> None:
    """Raise DataError unless `x` has this shape."""
    if x.shape != tuple(shape):
        raise DataError(
            f"Expected {what} of shape {tuple(shape)}, for {counted(shape[0], 'images')}; found "
            f"{tuple(x.shape)}."
        )
