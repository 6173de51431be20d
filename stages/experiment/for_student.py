"""What a recipe changes for the student that it is given."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.models.encoder import expected_colours
from pipeline.models.student import TIMM_PREFIX

ADAMS = ("adam", "adamw")
KNOWN_LR = 1e-3  # of Adam and AdamW at most, for a backbone that starts from known weights
# Of the rate, for a backbone that knows much already and has no teacher to correct it; with one,
# the recipe that docs/results.md has measured takes the whole rate.
BACKBONE_LR = 0.3


class ForStudent(NamedTuple):
    """Options of the sections `train` and `dataset.image`."""

    train: dict[str, Any]
    image: dict[str, Any]


def for_student(
    section: Mapping[str, Any], recipe: Mapping[str, Any], *, taught: bool, channels: int
) -> ForStudent:
    """Return what suits a student better than the options of a recipe's section `train`.

    Networks of timm train with channels last, in which most are faster. A network that starts from
    known weights sees colours as they were trained to, if the images have as many `channels`, and
    learns at a lower rate than one that knows nothing; unless it is `taught`, its backbone learns
    more slowly still.
    """
    architecture = str(section["architecture"])
    train: dict[str, Any] = {}
    if architecture.startswith(TIMM_PREFIX):
        train["channels_last"] = True
    if section.get("weights") is None:
        return ForStudent(train, {})
    if recipe.get("optimizer", {}).get("name", "adam") in ADAMS and recipe.get("lr", 0) > KNOWN_LR:
        train["lr"] = KNOWN_LR
    if not taught:
        train["backbone_lr"] = BACKBONE_LR
    mean, std = expected_colours(architecture)
    fits = channels == len(mean)
    return ForStudent(train, {"mean": [*mean], "std": [*std]} if fits else {})
