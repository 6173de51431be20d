"""The table of representations: one row per kind, each readable from an experiment file."""

import subprocess
import sys
from typing import Literal, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from pipeline.base.options import Options, problems
from pipeline.images.original_view import ImageOptions
from pipeline.representations.hog import HogOptions
from pipeline.representations.kinds import KINDS, AnyRepresentation
from pipeline.representations.representation import RepresentationOptions

HAND_CRAFTED = ["pixels", "scattering", "hog", "local_std", "dct", "patch_scattering", "augmented"]


class Section(Options):
    """A section like `features`: representations by name."""

    features: dict[str, AnyRepresentation]


def test_each_row_is_named_as_its_kind_and_is_in_the_union() -> None:
    assert set(HAND_CRAFTED) <= set(KINDS)
    for kind, options in KINDS.items():
        assert get_args(options.model_fields["kind"].annotation) == (kind,)
    union = get_args(get_args(AnyRepresentation)[0])
    assert set(union) == set(KINDS.values())


def test_a_section_is_read_by_kind() -> None:
    section = Section.model_validate(
        {
            "features": {
                "s": {"kind": "scattering", "J": 3, "reduce": {"pca": 8}},
                "p": {"kind": "pixels"},
            }
        }
    )
    assert isinstance(section.features["s"], KINDS["scattering"])
    assert section.features["s"].reduce.pca == 8
    adapter: TypeAdapter[RepresentationOptions] = TypeAdapter(AnyRepresentation)
    assert adapter.validate_python({"kind": "hog"}) == HogOptions()


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ({"kind": "scatering"}, "Did you mean 'scattering'"),
        ({"kind": "hog", "bin": 9}, "Did you mean 'bins'"),
        ({"kind": "hog", "bins": 9.5}, "features.x.bins"),
        ({"kind": "scattering", "order": 3}, "features.x.order"),
        ({"kind": "patch_scattering", "patches": 0}, "features.x.patches"),
    ],
)
def test_mistakes_are_named_by_their_path(specification: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Section.model_validate({"features": {"x": specification}})
    assert any(message in line for line in problems(caught.value, Section))


@pytest.mark.parametrize("kind", HAND_CRAFTED)
@pytest.mark.parametrize(("size", "channels"), [(17, 1), (32, 3)])
def test_every_hand_crafted_kind_maps_prepared_images_to_rows(
    kind: str, size: int, channels: Literal[1, 3]
) -> None:
    image = ImageOptions(
        size=size, channels=channels, mean=(0.5,) * channels, std=(0.2,) * channels
    )
    representation = KINDS[kind].model_validate({"kind": kind}).build(image)
    images = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    vectors = representation(images)
    assert vectors.shape[0] == 2
    assert vectors.ndim == 2
    assert bool(vectors.isfinite().all())
    assert not representation.state_dict()


def test_importing_the_table_loads_no_heavy_library() -> None:
    heavy = ["open_clip", "timm", "kornia", "lightning", "sklearn", "kymatio"]
    program = (
        "import sys, pipeline.representations.kinds; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", sorted({*HAND_CRAFTED} - {"augmented"}))
def test_autocast_around_a_representation_changes_nothing(kind: str) -> None:
    image = ImageOptions(size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    representation = KINDS[kind].model_validate({"kind": kind}).build(image)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = representation(images)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, representation(images))
