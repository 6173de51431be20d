"""What a recipe changes for the student that it is given."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.models.encoder import expected_colours
from pipeline.models.student import TIMM_PREFIX

# Of the rate, for a backbone that knows much already and has no teacher to correct it; with one,
# the recipe that docs/results.md has measured takes the whole rate.
BACKBONE_LR = 0.3


class ForStudent(NamedTuple):
    """Options of the sections `train` and `dataset.image`."""

    train: dict[str, Any]
    image: dict[str, Any]


def for_student(section: Mapping[str, Any], *, taught: bool, channels: int) -> ForStudent:
    """Return what suits a student better than the recipe's own options.

    Networks of timm train with channels last, in which most are faster. A network that starts from
    known weights sees colours as they were trained to, if the images have as many `channels`;
    unless it is `taught`, its backbone learns more slowly than what begins anew.
    """
    architecture = str(section["architecture"])
    train: dict[str, Any] = {}
    if architecture.startswith(TIMM_PREFIX):
        train["channels_last"] = True
    if section.get("weights") is None:
        return ForStudent(train, {})
    if not taught:
        train["backbone_lr"] = BACKBONE_LR
    mean, std = expected_colours(architecture)
    fits = channels == len(mean)
    return ForStudent(train, {"mean": [*mean], "std": [*std]} if fits else {})
