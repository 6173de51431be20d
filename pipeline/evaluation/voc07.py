"""VOC 2007 transfer."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import Options


class Voc07Options(Options):
    """`evaluate.<name>` of kind voc07.

    Each of `l2`, a factor on ||w||^2 / 2 beside a class's mean loss, is tried.
    """

    kind: Literal["voc07"] = "voc07"
    l2: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False, min_length=1)] = (
        1e-1,
        1e-2,
        1e-3,
        1e-4,
    )
    max_iterations: Annotated[int, Field(ge=1)] = 100
    # The fit ends when no component of the gradient is larger.
    tolerance: Annotated[float, Field(gt=0)] = 3e-5
