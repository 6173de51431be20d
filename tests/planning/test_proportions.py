"""Sizes, batches and epochs that `mvmr init` chooses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.proportions import (
    MOST_EPOCHS,
    UNTRAINED,
    batch_for,
    extent_for,
    is_enough,
    largest,
    resize_for,
    sizes_for,
    steps_for,
    stored_side,
)


@given(side=st.integers(1, 5000))
def test_an_image_is_not_enlarged_unless_it_is_tiny(side: int) -> None:
    sizes = sizes_for(side)
    assert list(sizes) == sorted(sizes)
    for size in sizes:
        assert size <= max(side, 16)
        assert size <= resize_for(size, side) <= max(side, 16)


def test_small_images_are_taken_whole() -> None:
    assert sizes_for(30) == (28,)
    assert resize_for(28, 30) == 30
    assert sizes_for(100) == (64, 96)
    assert resize_for(96, 100) == 100
    assert sizes_for(3000)[-1] == 224
    assert resize_for(224, 3000) == 252


@given(images=st.integers(24, 10**7), most=st.sampled_from([64, 128, 256]))
def test_a_batch_is_a_power_of_two_that_leaves_steps(images: int, most: int) -> None:
    batch = batch_for(images, most)
    assert batch.bit_count() == 1
    assert 8 <= batch <= min(most, images)
    assert batch == 8 or images // batch >= 16
    assert batch == most or images // (2 * batch) < 16


@given(
    images=st.integers(24, 10**6),
    seconds=st.floats(-100, 1e5),
    epoch_seconds=st.floats(1e-3, 1e4),
)
def test_epochs_keep_to_the_time_and_to_what_is_of_use(
    images: int, seconds: float, epoch_seconds: float
) -> None:
    batch = batch_for(images, 128)
    extent = extent_for(
        images, batch, seconds=seconds, epoch_seconds=epoch_seconds, most=UNTRAINED.most
    )
    assert extent.steps == extent.epochs * (images // batch)
    assert extent.fits == (extent.epochs * epoch_seconds <= seconds)
    assert extent.epochs == 1 or extent.fits
    assert 1 <= extent.epochs <= MOST_EPOCHS
    assert extent.epochs == 1 or (extent.epochs - 1) * (images // batch) < UNTRAINED.most
    longer = extent_for(
        images, batch, seconds=seconds + 1000, epoch_seconds=epoch_seconds, most=UNTRAINED.most
    )
    assert longer.epochs >= extent.epochs


@pytest.mark.parametrize(
    ("images", "seconds", "enough"), [(3000, 3600, True), (3000, 60, False), (60, 3600, True)]
)
def test_few_images_have_enough_when_epochs_are(images: int, seconds: float, enough: bool) -> None:
    batch = batch_for(images, 128)
    extent = extent_for(images, batch, seconds=seconds, epoch_seconds=2.0, most=UNTRAINED.most)
    assert is_enough(extent, UNTRAINED) is enough


def test_a_start_from_known_weights_needs_fewer_steps() -> None:
    steps = steps_for("weights.pt")
    assert steps_for(None) == UNTRAINED
    assert steps.enough < UNTRAINED.enough
    batch = batch_for(3000, min(128, steps.batch))
    extent = extent_for(3000, batch, seconds=900.0, epoch_seconds=60.0, most=steps.most)
    assert is_enough(extent, steps)
    assert not is_enough(extent, UNTRAINED)


def test_one_epoch_of_many_images_is_enough_and_may_not_fit() -> None:
    steps = steps_for("weights.pt")
    extent = extent_for(12_000, 64, seconds=600.0, epoch_seconds=900.0, most=steps.most)
    assert is_enough(extent, steps)
    assert not extent.fits


def test_files_are_kept_as_large_as_student_and_teacher_need() -> None:
    assert stored_side(64, 0) == 256
    assert stored_side(64, 260) == 520
    assert stored_side(224, 224) == 896


def test_the_largest_that_suits_else_the_smallest() -> None:
    assert largest((64, 96, 128), lambda size: size < 100) == 96
    assert largest((64, 96, 128), lambda size: size > 200) == 64
