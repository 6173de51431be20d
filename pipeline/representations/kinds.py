"""Every kind of representation, by its name in an experiment file.

To add one, write its file and add its row here.
"""

from typing import Annotated, get_args

from pydantic import Field

from pipeline.representations.augmented import AugmentedOptions
from pipeline.representations.dct import DctOptions
from pipeline.representations.given import GivenOptions
from pipeline.representations.hog import HogOptions
from pipeline.representations.local_std import LocalStdOptions
from pipeline.representations.own_representation import OwnOptions
from pipeline.representations.patch_scattering import PatchScatteringOptions
from pipeline.representations.pixels import PixelsOptions
from pipeline.representations.representation import RepresentationOptions
from pipeline.representations.scattering import ScatteringOptions
from pipeline.representations.teachers.exported import ExportedOptions
from pipeline.representations.teachers.open_clip import OpenClipOptions
from pipeline.representations.teachers.own_teacher import OwnTeacherOptions
from pipeline.representations.teachers.timm import TimmOptions

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
    | ExportedOptions
    | OwnOptions
    | OwnTeacherOptions
    | GivenOptions,
    Field(discriminator="kind"),
]

# The same options, by kind.
KINDS: dict[str, type[RepresentationOptions]] = {
    options.model_fields["kind"].default: options
    for options in get_args(get_args(AnyRepresentation)[0])
}
