"""Whether an embedding has collapsed: how many of its dimensions carry information."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from markupsafe import Markup
from torch import Tensor

from pipeline.metrics.effective_rank import effective_rank
from pipeline.reporting.figures import Key, Line, keys, line_chart
from pipeline.reporting.run_facts import Collapse
from pipeline.reporting.sample import STUDENT, ImageSample

DEAD = 0.01  # times the root mean square of the standard deviations
# An embedding beyond either limit counts as collapsed.
LEAST_RANK_SHARE, MOST_DEAD_SHARE = 0.05, 0.5


@dataclass(frozen=True)
class Health:
    """The indicators of each space by name, and a figure of the variance of each dimension.

    The student counts as collapsed if its rank is below `least_rank`, or more than `most_dead`
    percent of its dimensions are dead.
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

    A dimension is dead if its standard deviation is at most `DEAD` times the root mean square
    of all standard deviations, so a common scale makes no difference.
    """
    spread = space.double().std(dim=0, correction=0)
    dead = spread <= DEAD * spread.square().mean().sqrt()
    return Collapse(effective_rank(space), min(space.shape), dead.double().mean().item())


def has_collapsed(found: Collapse) -> bool:
    """Return whether only few dimensions carry information."""
    return found.rank < LEAST_RANK_SHARE * found.limit or found.dead_share > MOST_DEAD_SHARE


def variance_shares(space: Tensor) -> Tensor:
    """Return each dimension's share (D,) of the total variance of (N, D), largest first.

    All shares are zero if nothing varies.
    """
    variances = space.double().var(dim=0, correction=0)
    total = variances.sum()
    shares = variances / total if total > 0 else variances
    return shares.sort(descending=True).values


def health(sample: ImageSample) -> Health:
    """Return the indicators of every space of a sample."""
    spaces = {name: collapse_of(space) for name, space in sample.spaces.items()}
    shares = {name: variance_shares(sample.spaces[name]) for name in (STUDENT, sample.before)}
    lines = [
        Line(name, range(1, len(values) + 1), _drawable(values), number)
        for number, (name, values) in enumerate(shares.items())
    ]
    figure = line_chart(
        "variance",
        lines,
        x_label="dimension, by variance",
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
        spoken=f"The {half} dimensions of largest variance, of the student's {len(student)}, hold "
        "half of its variance.",
    )


def _drawable(shares: Tensor) -> list[float]:
    """Return percentages, NaN for zero, which a logarithmic axis cannot show."""
    return (100 * torch.where(shares > 0, shares, torch.nan)).tolist()
