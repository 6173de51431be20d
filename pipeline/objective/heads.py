"""Heads that map embeddings to a target; they belong to training, not to the encoder."""

from torch import nn


def build_head(width: int, target_width: int, *, layers: int) -> nn.Module:
    """Return a head from (B, width) to (B, target_width), of one layer or two.

    One layer is linear. With two there are layer norm and GELU between them, at the larger of both
    widths. Nothing in a head depends on the other rows of a batch.
    """
    if layers == 1:
        return nn.Linear(width, target_width)
    hidden = max(width, target_width)
    return nn.Sequential(
        nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, target_width)
    )
