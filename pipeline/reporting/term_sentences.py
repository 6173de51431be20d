"""A sentence on what each term of an objective asks of the encoder, made from its options."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.run_facts import RunFacts

STATISTICS = {
    "dcor": "dCor",
    "dcor_squared": "squared dCor",
    "dcor_squared_unbiased": "bias-corrected squared dCor",
}
KINDS = {
    "pixels": "raw pixels",
    "scattering": "wavelet scattering",
    "patch_scattering": "wavelet scattering by patches",
    "hog": "histograms of oriented gradients",
    "local_std": "local deviation",
    "dct": "cosine transform",
}
AUGMENTED = "the pixels of another random view, drawn for every batch"


@dataclass(frozen=True)
class TermSentence:
    """One term: its weight, and a sentence on what it measures and why."""

    name: str
    weight: float
    says: str


def terms_of(run: RunFacts, teachers: Mapping[str, str]) -> tuple[TermSentence, ...]:
    """Return the terms that a run was trained with; `teachers` maps features to networks."""
    return tuple(
        TermSentence(name, term["weight"], _sentence(term, run.config["features"], teachers))
        for name, term in run.objective.items()
    )


def _sentence(
    term: Mapping[str, Any], features: Mapping[str, Any], teachers: Mapping[str, str]
) -> str:
    says = _measured(term, features, teachers)
    if term["weight"] > 0:
        return f"{says}."
    against = "less of that dependence" if "dependence" in term["kind"] else "the opposite"
    return f"{says}. The weight is negative: training asks for {against}."


def _measured(
    term: Mapping[str, Any], features: Mapping[str, Any], teachers: Mapping[str, str]
) -> str:
    on = term["on"]
    match term["kind"]:
        case "invariance":
            return f"Mean squared difference between {on} of the two views: it pulls them together"
        case "variance":
            return (
                f"How far the standard deviation of each dimension of {on} over a batch falls "
                f"below {term['margin']:g}, summed over both views: it keeps images from "
                "collapsing to one point"
            )
        case "covariance":
            return (
                f"Squared covariances between the dimensions of {on}, summed over both views: it "
                "keeps them from carrying the same information"
            )
        case "view_dependence":
            return (
                f"1 minus {STATISTICS[term['statistic']]} between {on} of the two views: images "
                "that are near in one should be near in the other"
            )
        case "dependence":
            divided = ", each dimension divided by its standard deviation,"
            scaled = divided if term["standardise"] else ""
            return (
                f"1 minus {STATISTICS[term['statistic']]} between {_embedding(term)}{scaled} and "
                f"{_target(term['representation'], features, teachers)}: images that are near in "
                "one should be near in the other"
            )
        case "regression":
            losses = {"cosine": "1 minus the cosine", "squared": "Mean squared difference"}
            return (
                f"{losses[term['loss']]} between a learned linear map of {_embedding(term)} and "
                f"{_target(term['representation'], features, teachers)}: "
                "the first should predict the second"
            )
        case kind:
            return f"A term of kind {kind}"


def _embedding(term: Mapping[str, Any]) -> str:
    views = {"original": "the image", "augmented": "a random view", "both": "either view"}
    return f"{term['on']} of {views[term['view']]}"


def _target(name: str, features: Mapping[str, Any], teachers: Mapping[str, str]) -> str:
    if name in teachers:
        return f"the stored embedding of the image by the teacher {teachers[name]}"
    stored = features.get(name)
    kind = name if stored is None else stored["kind"]
    if kind == "augmented":
        return AUGMENTED
    return f"the image's {'' if stored is None else 'stored '}{KINDS.get(kind, kind)}"
