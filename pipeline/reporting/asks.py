"""What a protocol asks, what its figure is, and what chance would reach, for those new to it."""

from collections.abc import Mapping
from typing import Any

from pipeline.base.text import spoken
from pipeline.reporting.formats import count, percent

UNITLESS = ("effective_rank",)

_ASKS = {
    "linear": "How well does a linear classifier do on the frozen features? It is fitted anew, "
    "after training, on labelled training images.",
    "online": "How well does the linear classifier do that learned beside the encoder? It "
    "followed features that were still changing, so the linear protocol, where it is there, says "
    "more about what they are worth.",
    "knn": "How well do the nearest training images predict a class? Nothing is fitted.",
    "semi_supervised": "How well does a copy of the encoder do that is fine-tuned on few labels, "
    "those of {labels}? So is the untrained encoder. Raw pixels and stored features have no "
    "network to tune: they get a linear classifier, fitted on the same images.",
    "voc07": "How well do linear classifiers on the frozen features find the objects in an image?",
    "zero_shot": "How well do the teacher's text prompts name an image? All but the teacher are "
    "first mapped to its space, by a ridge regression on its stored embeddings of training "
    "images. No label is used, but to count what is right.",
    "retrieval": "Is one of the nearest other images of the same class? Nothing is fitted.",
    "agreement": "How many of an image's nearest neighbours are the same as in the stored "
    "feature? No label is used.",
    "effective_rank": "How many dimensions does the embedding use?",
}
_FIGURES = {"top1": "top-1 accuracy", "map": "mean average precision"}
# What reaches the chance of a figure, by the figure's name up to its first `_`.
_BY_CHANCE = {
    "top1": "naming the most frequent class every time",
    "map": "ranking the images by lot",
    "recall": "drawing the other images by lot",
    "agreement": "drawing the neighbours by lot",
}


def asks(kind: str, main: str, options: Mapping[str, Any], images: Mapping[str, int]) -> str:
    """Return what a protocol of a kind asks and does; empty for one that is not known here.

    `main` is its main figure, `images` how many images were used, by split.
    """
    figure = main.partition("_at_")[0]
    says = _ASKS.get(figure) or _ASKS.get(kind, "")
    return says.replace("{labels}", _labels(options, images))


def _labels(options: Mapping[str, Any], images: Mapping[str, int]) -> str:
    share = options.get("share")
    which = f", {100 * share:g} % of each class" if share else ", which a file lists"
    return f"{count(images.get('train', 0))} training images{which}"


def figure_of(main: str) -> str:
    """Return what a main figure is called."""
    return _FIGURES.get(main, spoken(main))


def chance_of(main: str, chance: float | None) -> str:
    """Return what chance reaches (%), and how; empty where that is not known."""
    if chance is None:
        return ""
    how = _BY_CHANCE.get(main.partition("_")[0])
    return f"chance: {percent(chance)} %{f', by {how}' if how else ''}"
