"""MV-MR: train image encoders on images and cached representations of them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.models.ready_encoder import load_encoder

__all__ = ["load_encoder"]


def __getattr__(name: str) -> Any:
    """Import `load_encoder` on first access, so that the commands' help loads no torch."""
    if name != "load_encoder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.models.ready_encoder import load_encoder

    return load_encoder
