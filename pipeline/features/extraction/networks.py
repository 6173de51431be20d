"""The frozen networks of a worker process: loaded once, and how many images they take at once."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from threading import RLock

import torch
from PIL import Image
from torch import Tensor

from pipeline.base.digests import digest
from pipeline.features.extraction.task import FeatureTask
from pipeline.images.decoding import opened
from pipeline.images.original_view import ImageOptions
from pipeline.images.preparation import Preparation
from pipeline.representations.representation import Representation, RepresentationOptions

CPU_BATCH = 64
# On a GPU, more images at once than these do not make a network faster; fewer are taken if their
# share of the free memory is too small.
GPU_BATCH, GPU_MEMORY_SHARE = 256, 0.25
TRIED_IMAGES = 8

_loading = RLock()  # two tasks of a process must not load the same network twice


def networks_of(
    features: tuple[FeatureTask, ...], image: ImageOptions, device: torch.device
) -> dict[str, Representation]:
    """Return the networks by feature, on a device; a process loads each of them once."""
    with _loading:
        return {
            feature.name: _built(
                feature.options, image, device, digest([feature.fingerprint, feature.trial])
            )
            for feature in features
        }


@lru_cache(maxsize=16)
def _built(
    options: RepresentationOptions, image: ImageOptions, device: torch.device, identity: str
) -> Representation:
    """Load a network; another `identity` means other weights, or other code of the user's own."""
    del identity
    return options.build(image).to(device).eval()


def blanks_of(hows: Iterable[Preparation]) -> dict[Preparation, Tensor]:
    """Return one blank image (C, H, W) for each way of preparing images, before it is finished."""
    blank = opened(Image.new("RGB", (64, 64)))
    return {how: how.pixels(blank) for how in hows}


def batch_size(networks: Mapping[str, Representation], device: torch.device) -> int:
    """Return how many images to compute at once: what suits the device and each network."""
    if device.type == "cpu":
        return CPU_BATCH
    with _loading:
        return min(_fitting(network, device) for network in networks.values())


@lru_cache(maxsize=16)
def _fitting(network: Representation, device: torch.device) -> int:
    """Return the largest power of two that takes at most its share of a GPU's free memory."""
    how = network.preparation
    blank = how.pixels(opened(Image.new("RGB", (64, 64))))
    images = blank.new_zeros(TRIED_IMAGES, *blank.shape).to(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        network(how.finish(images))
    each = (torch.cuda.max_memory_allocated(device) - before) / TRIED_IMAGES
    free, _ = torch.cuda.mem_get_info(device)
    affordable = GPU_MEMORY_SHARE * free / max(1.0, each)
    size = GPU_BATCH
    while size > 1 and size > affordable:
        size //= 2
    return size
