"""All kinds of source. Adding one is one file and one row here."""

from typing import Annotated

from pydantic import Field

from pipeline.datasets.base import SourceOptions
from pipeline.datasets.digits import DigitsOptions
from pipeline.datasets.image_folder import ImageFolderOptions

AnySource = Annotated[
    DigitsOptions  #
    | ImageFolderOptions,
    Field(discriminator="kind"),
]

__all__ = ["AnySource", "SourceOptions"]
