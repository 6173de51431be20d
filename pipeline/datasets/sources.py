"""All kinds of sources. To add one, write its file and add a row here."""

from typing import Annotated

from pydantic import Field

from pipeline.datasets.cifar import Cifar10Options, Cifar20Options, Cifar100Options
from pipeline.datasets.digits import DigitsOptions
from pipeline.datasets.image_folder import ImageFolderOptions
from pipeline.datasets.image_table import TableOptions
from pipeline.datasets.imagenet import ImageNetOptions, TinyImageNetOptions
from pipeline.datasets.parquet import ParquetOptions
from pipeline.datasets.source import SourceOptions
from pipeline.datasets.stl10 import Stl10Options
from pipeline.datasets.voc07 import Voc07Options
from pipeline.datasets.webdataset import WebDatasetOptions

AnySource = Annotated[
    Cifar10Options
    | Cifar20Options
    | Cifar100Options
    | DigitsOptions
    | ImageFolderOptions
    | ImageNetOptions
    | ParquetOptions
    | Stl10Options
    | TableOptions
    | TinyImageNetOptions
    | Voc07Options
    | WebDatasetOptions,
    Field(discriminator="kind"),
]

__all__ = ["AnySource", "SourceOptions"]
