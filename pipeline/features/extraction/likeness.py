"""How near the vectors of a fast preparation are to those of the exact one."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.base.locations import Location
from pipeline.images.decoding import ImageFile, opened
from pipeline.images.original_view import ImageOptions
from pipeline.representations.representation import Representation, RepresentationOptions
from pipeline.shards.manifest import Manifest
from pipeline.shards.reading import read_shard

IMAGES = 32


@torch.no_grad()
def likeness_of(
    options: RepresentationOptions,
    exact: RepresentationOptions,
    image: ImageOptions,
    directory: Location,
    manifest: Manifest,
) -> dict[str, Any]:
    """Return mean and minimum of the cosine of vectors to the exact ones, over some images.

    These are the first valid ones of the training split in `directory`, a random sample.
    """
    files = [opened(data) for data in islice(_valid_files(directory, manifest), IMAGES)]
    found, wanted = (_vectors(how.build(image), files) for how in (options, exact))
    cosines = F.cosine_similarity(found, wanted)
    return {"cosine": cosines.mean().item(), "least": cosines.min().item(), "images": len(files)}


def _valid_files(directory: Location, manifest: Manifest) -> Iterator[bytes]:
    for number, shard in enumerate(manifest.shards):
        for record in read_shard(directory, manifest, number):
            if record.row not in shard.invalid:
                yield record.data


def _vectors(network: Representation, files: list[ImageFile]) -> Tensor:
    how = network.eval().preparation
    vectors: Tensor = network(how.finish(torch.stack([how.pixels(file) for file in files])))
    return vectors.float()
