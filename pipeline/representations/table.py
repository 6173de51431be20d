"""Every kind of representation, by the name that an experiment file gives it.

To add one: write its file and add its row here, to `KINDS` and to the union below it.
"""

from typing import Annotated

from pydantic import Field

from pipeline.representations.augmented import AugmentedOptions
from pipeline.representations.base import RepresentationOptions
from pipeline.representations.dct import DctOptions
from pipeline.representations.hog import HogOptions
from pipeline.representations.local_std import LocalStdOptions
from pipeline.representations.patch_scattering import PatchScatteringOptions
from pipeline.representations.pixels import PixelsOptions
from pipeline.representations.scattering import ScatteringOptions
from pipeline.teachers.exported import ExportedOptions
from pipeline.teachers.open_clip import OpenClipOptions
from pipeline.teachers.timm import TimmOptions

KINDS: dict[str, type[RepresentationOptions]] = {
    "pixels": PixelsOptions,
    "scattering": ScatteringOptions,
    "hog": HogOptions,
    "local_std": LocalStdOptions,
    "dct": DctOptions,
    "patch_scattering": PatchScatteringOptions,
    "augmented": AugmentedOptions,
    "open_clip": OpenClipOptions,
    "timm": TimmOptions,
    "exported": ExportedOptions,
}

AnyRepresentation = Annotated[
    PixelsOptions
    | ScatteringOptions
    | HogOptions
    | LocalStdOptions
    | DctOptions
    | PatchScatteringOptions
    | AugmentedOptions
    | OpenClipOptions
    | TimmOptions
    | ExportedOptions,
    Field(discriminator="kind"),
]
