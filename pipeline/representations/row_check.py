"""Whether a representation gives each image a vector of its own, whatever else is in the batch."""

import numpy as np
import torch
from PIL import Image

from pipeline.base.errors import WeightsError
from pipeline.representations.representation import Representation

# Kernels differ with the shape of a batch, most of all in bfloat16.
TOLERANCE = 0.02


@torch.no_grad()
def checked_width(representation: Representation, name: str) -> int:
    """Return the width of the vectors of a representation, which messages call `name`.

    Two images are represented together, in the other order, and one of them alone. Raises
    WeightsError unless there is one finite vector for each, the same every time.
    """
    images = torch.stack([representation.preparation(picture) for picture in trial_pictures()])
    try:
        both = representation(images)
        turned, alone = representation(images.flip(0)).flip(0), representation(images[:1])
    except Exception as error:  # whatever a network, or the guards of a program, raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{name} does not take batches of 2 and of 1 images of {tuple(images.shape[1:])}: "
            f"{reason.rstrip('.')}; export a program with a dynamic first dimension."
        ) from error
    if both.ndim != 2 or len(both) != 2 or not both.is_floating_point():
        raise WeightsError(
            f"{name} must give one vector of floats for each image; found {both.dtype} of shape "
            f"{tuple(both.shape)} for 2 images."
        )
    if not torch.isfinite(both).all():
        raise WeightsError(f"{name} gives numbers that are not finite: check its weights.")
    if not (_alike(turned, both) and _alike(alone, both[:1])):
        raise WeightsError(
            f"{name} gives an image another vector in another batch: put its network in "
            "evaluation mode, or export it in this mode, so that no row depends on the others."
        )
    return int(both.shape[1])


def trial_pictures() -> list[Image.Image]:
    """Return the two images by which a representation is checked, always the same."""
    draws = np.random.default_rng(0)
    # Unlike noise alone, a gradient stays different after an image is scaled down.
    shades = np.linspace(0, 180, 96)[None, :, None]
    noise = draws.integers(0, 75, (2, 64, 96, 3))
    bright, dark = (shades + noise[0]).astype(np.uint8), (noise[1] + shades[:, ::-1] / 2)
    return [Image.fromarray(bright), Image.fromarray(dark.astype(np.uint8))]


def _alike(found: torch.Tensor, expected: torch.Tensor) -> bool:
    error = (found.float() - expected.float()).norm(dim=1)
    return bool((error <= TOLERANCE * expected.float().norm(dim=1)).all())
