"""What is scored: features of encoders and pixels, from one decoding of each image."""

from pathlib import Path

import pytest
import torch
from shades import IMAGE, STUDENT

from pipeline.base.progress import Silent
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.subjects import Subject, image_subjects
from pipeline.images.decoding import ImageFile, opened
from pipeline.images.original_view import normalise
from pipeline.models.encoder import build_encoder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Collect the files that are decoded for scoring."""
    seen: list[bytes] = []

    def noted(data: bytes) -> ImageFile:
        seen.append(data)
        return opened(data)

    monkeypatch.setattr("pipeline.evaluation.image_set.opened", noted)
    return seen


def subjects(images: Images, cache: Path) -> dict[str, Subject]:
    encoders = {
        name: build_encoder(STUDENT, channels=3, size=IMAGE.size, seed=seed)
        for seed, name in enumerate(("student", "untrained"))
    }
    return image_subjects(
        encoders, images, device=torch.device("cpu"), cache=cache, progress=Silent()
    )


def test_each_image_is_decoded_once_for_all_of_them(
    labelled: Images, tmp_path: Path, decoded: list[bytes]
) -> None:
    made = subjects(labelled, tmp_path)
    found = {name: subject.of("validation") for name, subject in made.items()}
    assert len(decoded) == labelled.count("validation")
    for name, subject in subjects(labelled, tmp_path).items():  # in another process
        assert torch.equal(subject.of("validation"), found[name])
    assert len(decoded) == labelled.count("validation")
    views = torch.cat([*labelled.batches("validation")])
    assert torch.equal(found["pixels"], normalise(views, IMAGE).flatten(1))
    student = made["student"].encoder
    assert student is not None
    with torch.no_grad():
        expected = student.features(normalise(views, IMAGE))
    torch.testing.assert_close(found["student"], expected)


def test_the_first_images_have_the_rows_of_the_whole(
    labelled: Images, tmp_path: Path, decoded: list[bytes]
) -> None:
    few = Images(labelled.splits, first=7)
    before = {name: subject.of("train") for name, subject in subjects(few, tmp_path).items()}
    assert not list(tmp_path.iterdir())
    whole = {name: subject.of("train") for name, subject in subjects(labelled, tmp_path).items()}
    decoded.clear()
    for name, subject in subjects(few, tmp_path).items():
        assert torch.equal(subject.of("train"), whole[name][:7])
        torch.testing.assert_close(before[name], whole[name][:7])
    assert not decoded
