"""The augmented view: a new draw for each image, in [0, 1], and never stored."""

import pytest
import torch
from torch import Tensor

from pipeline.images.original_view import ImageOptions, normalise
from pipeline.images.random_views import Augmentation, DrawnView, PaddedCrop
from pipeline.representations.augmented import Augmented, AugmentedOptions

# With these numbers, 0 and 1 come back from normalisation slightly outside [0, 1]: in the first
# channel in single precision, in the second in double.
OPTIONS = ImageOptions(size=16, channels=3, mean=(0.2, 0.2, 0.4), std=(0.17, 0.31, 0.2))


class Negative(Augmentation):
    """A tiny augmentation that checks the range of its input."""

    def views(self, images: Tensor, drawn: DrawnView | None = None) -> Tensor:
        """Map [0, 1] to itself."""
        assert float(images.min()) >= 0
        assert float(images.max()) <= 1
        return 1 - images


def plain_images(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), generator=generator).to(dtype) / 255


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_augments_in_the_range_of_images_and_returns_to_the_normalised_one(
    dtype: torch.dtype,
) -> None:
    images = plain_images(4, dtype)
    images[0], images[1] = 0, 1
    vectors = Augmented(
        Negative(PaddedCrop(), [], flip_p=0, colour_first=False, shape=(3, 16, 16), size=16),
        OPTIONS,
        {},
    )(normalise(images, OPTIONS))
    assert vectors.dtype == dtype
    assert torch.allclose(vectors, normalise(1 - images, OPTIONS).flatten(1), atol=1e-5)


def test_draws_for_each_image_and_at_each_call() -> None:
    representation = AugmentedOptions().build(OPTIONS)
    torch.manual_seed(0)
    images = normalise(plain_images(1).expand(4, -1, -1, -1), OPTIONS)
    first, second = representation(images), representation(images)
    assert first.shape == (4, 3 * 16 * 16)
    assert len(torch.unique(torch.cat([first, second]), dim=0)) == 8


def test_one_seed_gives_one_sequence() -> None:
    representation = AugmentedOptions().build(OPTIONS)
    images = normalise(plain_images(4), OPTIONS)
    torch.manual_seed(1)
    first = representation(images)
    torch.manual_seed(1)
    assert torch.equal(representation(images), first)


def test_values_stay_those_of_an_image() -> None:
    vectors = AugmentedOptions().build(OPTIONS)(normalise(plain_images(8), OPTIONS))
    low = normalise(torch.zeros(1, 3, 16, 16), OPTIONS).flatten(1)
    high = normalise(torch.ones(1, 3, 16, 16), OPTIONS).flatten(1)
    assert bool(((vectors >= low - 1e-4) & (vectors <= high + 1e-4)).all())


def test_cannot_be_stored_and_names_its_policy() -> None:
    assert not AugmentedOptions.storable
    options = AugmentedOptions.model_validate({"augmentation": {"policy": "cifar"}})
    identity = options.build(OPTIONS).identity()
    assert identity["kind"] == "augmented"
    assert identity["augmentation"] == options.augmentation.model_dump(mode="json")
    assert identity != AugmentedOptions().build(OPTIONS).identity()
    assert AugmentedOptions().augmentation.policy == "custom"
