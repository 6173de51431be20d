"""Zero shot."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.config import Options

Templates = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]


class ZeroShotOptions(Options):
    """`evaluate.<name>` of kind zero_shot.

    `teacher` is a stored feature of kind open_clip. A template holds one `{}` for the class,
    whose name is its folder's with spaces for underscores, unless the JSON object in the file
    `names` says otherwise. Each of `ridges`, relative to the mean variance of a feature, is
    tried.
    """

    kind: Literal["zero_shot"] = "zero_shot"
    teacher: str
    templates: Templates = ("a photo of a {}.",)
    names: Annotated[Path, Field(strict=False)] | None = None
    ridges: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False, min_length=1)
    ] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

    @field_validator("templates")
    @classmethod
    def _have_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1:
                raise ValueError(f"a template holds one {{}} for the class; {template!r} does not")
        return templates
