"""MV-MR: train image encoders on images and cached representations of them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.models.ready import load_encoder

__all__ = ["load_encoder"]


def __getattr__(name: str) -> Any:
    """Import what is handed on when it is first asked for: the commands' help needs no torch."""
    if name != "load_encoder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.models.ready import load_encoder

    return load_encoder
