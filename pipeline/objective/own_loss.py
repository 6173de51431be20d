"""Calling a loss of the user's own, and checking what it returns."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from pipeline.base.errors import TrainingError
from pipeline.objective.terms import OwnTerm


def own_loss(
    name: str,
    term: OwnTerm,
    function: Callable[..., Any],
    views: Sequence[Tensor],
    target: Tensor | list[Tensor] | None,
) -> Tensor:
    """Return the loss of embeddings (B, D), one per view, and a target (B, width) as a scalar.

    The function gets a list of targets, one per view, if these are stored by view.

    Raises TrainingError if the function returns anything but a scalar or numbers (B,).
    """
    found = function(*views) if target is None else function(*views, target)
    rows = len(views[0])
    if not isinstance(found, Tensor) or found.shape not in ((), (rows,)):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise TrainingError(
            f"The loss term {name!r} ({term.code}) must return a scalar tensor or one number for "
            f"each of {rows} images; found {shape}."
        )
    return found.mean()
