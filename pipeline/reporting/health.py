"""Whether an embedding has collapsed: how many of its dimensions carry anything."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from markupsafe import Markup
from torch import Tensor

from pipeline.metrics.effective_rank import effective_rank
from pipeline.reporting.figures import Key, Line, keys, line_chart
from pipeline.reporting.run_facts import Collapse
from pipeline.reporting.sample import STUDENT, UNTRAINED, Sample

DEAD = 0.01  # of the root mean square of the standard deviations
# Beyond either of these an embedding is called collapsed.
LEAST_RANK_SHARE, MOST_DEAD_SHARE = 0.05, 0.5


@dataclass(frozen=True)
class Health:
    """`spaces` by name, and the variance of each dimension of the encoders as a figure.

    Below `least_rank`, or above `most_dead` (%) dead dimensions, the student would be called
    collapsed.
    """

    spaces: Mapping[str, Collapse]
    collapsed: bool
    least_rank: float
    most_dead: float
    images: int
    figure: Markup
    keys: tuple[Key, ...]
    spoken: str


def collapse_of(space: Tensor) -> Collapse:
    """Return RankMe of features (N, D), its bound min(N, D), and the share of dead dimensions.

    A dimension is dead where its standard deviation is at most `DEAD` times the root mean
    square of all: a common scale makes no difference.
    """
    spread = space.double().std(dim=0, correction=0)
    dead = spread <= DEAD * spread.square().mean().sqrt()
    return Collapse(effective_rank(space), min(space.shape), dead.double().mean().item())


def has_collapsed(found: Collapse) -> bool:
    """Whether few dimensions carry anything."""
    return found.rank < LEAST_RANK_SHARE * found.limit or found.dead_share > MOST_DEAD_SHARE


def variance_shares(space: Tensor) -> Tensor:
    """Return the share (D,) of each dimension in the total variance of (N, D), largest first.

    Zeros where nothing varies.
    """
    variances = space.double().var(dim=0, correction=0)
    total = variances.sum()
    shares = variances / total if total > 0 else variances
    return shares.sort(descending=True).values


def health(sample: Sample) -> Health:
    """Return the indicators of every space of a sample."""
    spaces = {name: collapse_of(space) for name, space in sample.spaces.items()}
    shares = {name: variance_shares(sample.spaces[name]) for name in (STUDENT, UNTRAINED)}
    lines = [
        Line(name, range(1, len(values) + 1), _drawable(values), number)
        for number, (name, values) in enumerate(shares.items())
    ]
    figure = line_chart(
        "variance",
        lines,
        x_label="dimension, by its variance",
        log=True,
    )
    student = shares[STUDENT]
    half = int((student.cumsum(0) < 0.5).sum()) + 1
    return Health(
        spaces=spaces,
        collapsed=has_collapsed(spaces[STUDENT]),
        least_rank=LEAST_RANK_SHARE * spaces[STUDENT].limit,
        most_dead=100 * MOST_DEAD_SHARE,
        images=len(sample.images),
        figure=figure,
        keys=keys(lines),
        spoken=f"Taken one by one, the largest {half} of the student's {len(student)} dimensions "
        "hold half of its variance.",
    )


def _drawable(shares: Tensor) -> list[float]:
    """Return percentages; a logarithmic axis has no place for zero."""
    return (100 * torch.where(shares > 0, shares, torch.nan)).tolist()
