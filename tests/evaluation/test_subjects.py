"""What is scored: the student and its controls, as features of the same images."""

import pytest
import torch

from pipeline.evaluation.subjects import encoder_digest
from pipeline.models.encoder import Encoder, build_encoder
from pipeline.models.student import StudentOptions


def encoder(**options: object) -> Encoder:
    student = StudentOptions.model_validate({"architecture": "resnet18", **options})
    return build_encoder(student, channels=3, size=32, seed=0)


@pytest.mark.parametrize(
    ("one", "other"),
    [({"stem": "3x3"}, {"stem": "3x3/2"}), ({"maxpool": True}, {"maxpool": False})],
)
def test_networks_of_equal_weights_that_compute_otherwise_are_told_apart(
    one: dict[str, object], other: dict[str, object]
) -> None:
    a, b = encoder(**one), encoder(**other)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert encoder_digest(a) == encoder_digest(encoder(**one))
    assert encoder_digest(a) != encoder_digest(b)


def test_statistics_of_batch_norm_count() -> None:
    a, b = encoder(), encoder()
    b.train().features(torch.randn(4, 3, 32, 32))
    assert encoder_digest(a) != encoder_digest(b)
