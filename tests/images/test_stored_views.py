"""Stored views: drawn from the file's content, as torchvision draws boxes, and cut as by hand."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from photographs import photographs
from PIL import Image, ImageOps
from scipy.stats import binomtest, kstest
from timm.data import resolve_model_data_config
from torchvision.transforms import v2

from pipeline.images.decoding import opened
from pipeline.images.original_view import ImageOptions, normalise
from pipeline.images.preparation import OriginalView, StoredViewPreparation
from pipeline.images.stored_views import StoredViewOptions, identities_of_views, stored_view
from pipeline.representations.teachers.timm import TimmOptions

IMAGE = ImageOptions(size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
VIEWS = StoredViewOptions(count=4)
MODEL = "test_resnet.r160_in1k"


def file_of(number: int, size: tuple[int, int] = (90, 60), orientation: int = 1) -> bytes:
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(
        file, "JPEG", quality=95, exif=exif
    )
    return file.getvalue()


def test_a_view_follows_from_the_content_of_the_file_alone() -> None:
    first, other = file_of(0), file_of(1)
    drawn = [stored_view(VIEWS, opened(first), n) for n in range(4)]
    assert drawn == [stored_view(VIEWS, opened(first), n) for n in range(4)]
    more = VIEWS.model_copy(update={"count": 9})
    assert drawn == [stored_view(more, opened(first), n) for n in range(4)]  # of which 4 are known
    assert len(set(drawn)) == 4
    assert stored_view(VIEWS, opened(other), 0) != drawn[0]
    assert stored_view(VIEWS.model_copy(update={"seed": 1}), opened(first), 0) != drawn[0]


def test_boxes_are_drawn_as_torchvision_draws_them() -> None:
    files = [opened(file_of(n, (40, 30))) for n in range(1500)]
    options = StoredViewOptions(count=2, min_scale=0.3, flip_p=0.25)
    found = [stored_view(options, file, n) for file in files for n in range(2)]
    torch.manual_seed(0)
    image = torch.zeros(3, 30, 40)
    theirs = [
        v2.RandomResizedCrop.make_params(v2.RandomResizedCrop(8, scale=(0.3, 1)), [image])
        for _ in range(3000)
    ]
    for name in ("top", "left", "height", "width"):
        assert kstest([getattr(v, name) for v in found], [p[name] for p in theirs]).pvalue > 1e-3
    assert all(0 <= v.top <= 30 - v.height and 0 <= v.left <= 40 - v.width for v in found)
    flips = sum(view.flipped for view in found)
    assert binomtest(flips, len(found), 0.25).pvalue > 1e-3


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_view_is_its_box_of_the_upright_image_mirrored_if_it_is_flipped(orientation: int) -> None:
    data = file_of(3, orientation=orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    file, flipped = opened(data), set()
    for number in range(8):
        drawn = stored_view(VIEWS, file, number)
        pixels = np.asarray(upright)[drawn.top :, drawn.left :][: drawn.height, : drawn.width]
        expected = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
        wanted = torch.from_numpy(np.array(expected)).permute(2, 0, 1)
        found = OriginalView(IMAGE).view(file, drawn)
        assert torch.equal(found, wanted.flip(2) if drawn.flipped else wanted)
        flipped.add(drawn.flipped)
    assert flipped == {False, True}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet.pt"
    torch.save(timm.create_model(MODEL).state_dict(), path)
    return path


@pytest.mark.parametrize("preparation", ["exact", "fast"])
def test_a_teacher_sees_the_whole_crop_at_the_size_of_its_input(
    weights: Path, preparation: Any
) -> None:
    teacher = TimmOptions(model=MODEL, weights=weights, preparation=preparation).build(IMAGE)
    network = timm.create_model(MODEL, num_classes=0).eval()
    state = torch.load(weights, weights_only=True)
    network.load_state_dict({name: v for name, v in state.items() if not name.startswith("fc.")})
    settings = resolve_model_data_config(network)
    for path in photographs(6):
        file = opened(path.read_bytes())
        for number in range(3):
            drawn = stored_view(VIEWS, file, number)
            by_hand = v2.functional.resized_crop(
                file.decoded().convert("RGB"),
                drawn.top,
                drawn.left,
                drawn.height,
                drawn.width,
                [160, 160],
                v2.InterpolationMode(settings["interpolation"]),
            )
            image = v2.functional.pil_to_tensor(by_hand)
            image = image.flip(2) if drawn.flipped else image
            seen = normalise(
                image,
                ImageOptions(size=160, mean=settings["mean"], std=settings["std"]),
            )
            how = StoredViewPreparation(teacher.preparation, VIEWS, number)
            found = teacher(how.finish(how.pixels(file)[None]))
            with torch.no_grad():
                assert F.cosine_similarity(found, network(seen[None])).item() > 0.9999


def test_identities_of_views_differ_and_those_of_nothing_are_nothing() -> None:
    contents = np.random.default_rng(0).integers(1, 256, (5, 16), dtype=np.uint8)
    contents[2] = 0
    found = [identities_of_views(VIEWS, contents, number) for number in range(3)]
    rows = {row.tobytes() for table in (*found, contents) for row in table if row.any()}
    assert len(rows) == 4 * 4
    assert not any(table[2].any() for table in found)
    other = identities_of_views(VIEWS.model_copy(update={"flip_p": 0.0}), contents, 0)
    assert not (other == found[0]).all(axis=1)[[0, 1, 3, 4]].any()
