"""What a protocol asks, what its figure is called, and what chance would reach, for newcomers."""

from collections.abc import Mapping
from typing import Any

from pipeline.base.text import spoken
from pipeline.reporting.formats import count, percent

UNITLESS = ("effective_rank",)

_ASKS = {
    "linear": "How well does a linear classifier do on the frozen features? It is fitted after "
    "training, on labelled training images.",
    "online": "How well does the linear classifier that learned beside the encoder do? It "
    "followed features that were still changing, so the linear protocol, where it was run, says "
    "more about the quality of the features.",
    "knn": "How well do the nearest training images predict a class? Nothing is fitted.",
    "semi_supervised": "How well does a copy of the encoder do after fine-tuning on few labels, "
    "those of {labels}? The untrained encoder is fine-tuned in the same way. Raw pixels and stored "
    "features have no network to tune: they get a linear classifier, fitted on the same images.",
    "robustness": "How well do the features survive shifts, rotations, other scales and noise? "
    "{classifier}, and scores test images under each transformation. The figure is the mean over "
    "all of them. Stored features are computed anew from the transformed images.",
    "voc07": "How well do linear classifiers on the frozen features find the objects in an image?",
    "zero_shot": "How well do the teacher's text prompts name an image? All features but the "
    "teacher's are first mapped to the teacher's space, by a ridge regression on its stored "
    "embeddings of training images. Labels are used only to count correct answers.",
    "retrieval": "Does one of the nearest other images have the same class? Nothing is fitted.",
    "agreement": "How many of an image's nearest neighbours are also its nearest neighbours in "
    "the stored feature? No label is used.",
    "effective_rank": "How many dimensions does the embedding use?",
}
_CLASSIFIERS = {
    "linear": "A linear classifier is fitted on unchanged training images",
    "knn": "A vote of the nearest training images, which are unchanged, names the class",
}
_FIGURES = {
    "top1": "top-1 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "map": "mean average precision",
    "transformed_top1": "top-1 accuracy on transformed images",
}
# The guess that reaches chance level, by the figure's name up to its first `_`.
_BY_CHANCE = {
    "top1": "naming the most frequent class every time",
    "transformed": "naming the most frequent class every time",
    "balanced": "naming any one class every time",
    "map": "ranking the images at random",
    "recall": "drawing the other images at random",
    "agreement": "drawing the neighbours at random",
}


def asks(kind: str, main: str, options: Mapping[str, Any], images: Mapping[str, int]) -> str:
    """Return what a protocol of a kind asks and does; empty for an unknown kind.

    `main` is its main figure; `images` is the number of images used, by split.
    """
    figure = main.partition("_at_")[0]
    says = _ASKS.get(figure) or _ASKS.get(kind, "")
    classifier = _CLASSIFIERS.get(options.get("classifier", ""), "")
    return says.replace("{labels}", _labels(options, images)).replace("{classifier}", classifier)


def _labels(options: Mapping[str, Any], images: Mapping[str, int]) -> str:
    share = options.get("share")
    which = f", {100 * share:g} % of each class" if share else ", listed in a file"
    return f"{count(images.get('train', 0))} training images{which}"


def figure_of(main: str) -> str:
    """Return the name of a main figure."""
    return _FIGURES.get(main, spoken(main))


def chance_of(main: str, chance: float | None) -> str:
    """Return what chance reaches (%), and how; empty where chance is unknown."""
    if chance is None:
        return ""
    how = _BY_CHANCE.get(main.partition("_")[0])
    return f"chance: {percent(chance)} %{f', by {how}' if how else ''}"
