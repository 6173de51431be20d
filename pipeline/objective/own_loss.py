"""Calling a loss of the user's own, and checking what it returns."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from pipeline.base.errors import ConfigError, TrainingError
from pipeline.base.own_code import require_arguments
from pipeline.objective.terms import OWN_TERMS, OwnTerm


def found_loss(name: str, term: OwnTerm) -> Callable[..., Any]:
    """Return the function of a term.

    Raises ConfigError if there is none, if it takes other arguments, or if it has parameters, which
    nothing would train.
    """
    function: Callable[..., Any] = OWN_TERMS.find(term.code, trust=term.trust)
    if isinstance(function, nn.Module) and any(p.requires_grad for p in function.parameters()):
        raise ConfigError(
            f"The loss term {name!r} ({term.code}) has parameters, which would not be trained: put "
            "them into the student, or freeze them by requires_grad_(False)."
        )
    target = () if term.representation is None else ("target",)
    require_arguments(function, f"The loss term {name!r} ({term.code})", *term.needs, *target)
    return function


def own_loss(
    name: str,
    term: OwnTerm,
    function: Callable[..., Any],
    views: Sequence[Tensor],
    target: Tensor | list[Tensor] | None,
) -> Tensor:
    """Return the loss of embeddings (B, D), one per view, and a target (B, width) as a scalar.

    The function gets a list of targets, one per view, if these are stored by view.

    Raises TrainingError if the function returns anything but a scalar or numbers (B,), or if its
    embeddings have a gradient and what it returns has none.
    """
    found = function(*views) if target is None else function(*views, target)
    rows = len(views[0])
    if not isinstance(found, Tensor) or found.shape not in ((), (rows,)):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise TrainingError(
            f"The loss term {name!r} ({term.code}) must return a scalar tensor or one number for "
            f"each of {rows} images; found {shape}."
        )
    if not found.is_floating_point():
        raise TrainingError(
            f"The loss term {name!r} ({term.code}) must return floats; found {found.dtype}."
        )
    if any(view.requires_grad for view in views) and not found.requires_grad:
        raise TrainingError(
            f"The loss term {name!r} ({term.code}) has no gradient: compute it from the embeddings "
            "by operations of torch alone, without detach(), item(), numpy() or no_grad()."
        )
    return found.mean()
