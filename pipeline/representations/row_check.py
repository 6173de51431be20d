"""Whether a representation gives each image a vector of its own, whatever else is in the batch."""

import numpy as np
import torch
from PIL import Image

from pipeline.base.errors import MvmrError, WeightsError
from pipeline.representations.representation import Representation, RepresentationOptions

# Kernels differ with the shape of a batch, most of all in bfloat16.
TOLERANCE = 0.02
# Of vectors computed in float32, on other processors or with other numbers of threads.
EXACT = 1e-3
# Rounding, between vectors of different pictures.
SAME = 1e-6


@torch.no_grad()
def checked_vectors(representation: Representation, name: str) -> torch.Tensor:
    """Return the vectors (2, D) that a representation, which messages call `name`, gives pictures.

    The pictures are represented together, in the other order, and one of them alone. Raises
    WeightsError unless both are prepared to the same size, and there is one finite vector for each,
    the same every time and unlike that of the other.
    """
    images = _prepared(representation, name)
    try:
        both: torch.Tensor = representation(images)
        turned, alone = representation(images.flip(0)).flip(0), representation(images[:1])
    except MvmrError:
        raise
    except Exception as error:  # whatever a network, or the guards of a program, raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{name} does not take batches of 2 and of 1 images of {tuple(images.shape[1:])}: "
            f"{reason.rstrip('.')}; {representation.if_not_taken}."
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
            f"{name} gives an image another vector in another batch, so that rows depend on each "
            f"other: {representation.if_mixed}."
        )
    if torch.allclose(both[0], both[1], rtol=SAME, atol=0):
        raise WeightsError(
            f"{name} gives two unlike pictures the same vector, from which nothing can be learnt: "
            "check its weights and its preparation."
        )
    return both


def tolerance_of(options: RepresentationOptions) -> float:
    """Return how much vectors may differ between machines, as a share of their norm."""
    return TOLERANCE if getattr(options, "precision", "float32") == "bfloat16" else EXACT


def _prepared(representation: Representation, name: str) -> torch.Tensor:
    """Return the prepared trial pictures (2, C, H, W)."""
    pictures = trial_pictures()
    try:
        prepared = [representation.preparation(picture) for picture in pictures]
    except MvmrError:
        raise
    except Exception as error:  # of any kind: it may be the user's code
        raise WeightsError(
            f"The preparation of {_within(name)} fails on a PIL image of {pictures[0].size}: "
            f"{type(error).__name__}: {error}."
        ) from error
    shapes = [tuple(image.shape) for image in prepared]
    if len(set(shapes)) > 1:
        raise WeightsError(
            f"The preparation of {_within(name)} must bring every image to one size; found "
            f"{shapes[0]} for an image of {pictures[0].size} and {shapes[1]} for one of "
            f"{pictures[1].size}. Resize "
            "both sides, or crop."
        )
    return torch.stack(prepared)


def _within(name: str) -> str:
    """Return a name that may begin a sentence as it stands within one."""
    return name.replace("The ", "the ", 1)


def trial_pictures() -> list[Image.Image]:
    """Return the two images by which a representation is checked: one is wide, one is high."""
    draws = np.random.default_rng(0)
    # Unlike noise alone, a gradient stays different after an image is scaled down.
    shades = np.linspace(0, 180, 96)[None, :, None]
    noise = draws.integers(0, 75, (2, 64, 96, 3))
    bright, dark = (shades + noise[0]).astype(np.uint8), (noise[1] + shades[:, ::-1] / 2)
    return [Image.fromarray(bright), Image.fromarray(dark.astype(np.uint8).transpose(1, 0, 2))]


def _alike(found: torch.Tensor, expected: torch.Tensor) -> bool:
    error = (found.float() - expected.float()).norm(dim=1)
    return bool((error <= TOLERANCE * expected.float().norm(dim=1)).all())
