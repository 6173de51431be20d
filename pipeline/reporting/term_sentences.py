"""What each term of an objective asks of the encoder, in a sentence, from its options alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.run_facts import Run

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
AUGMENTED = "the pixels of another random view, drawn anew for every batch"


@dataclass(frozen=True)
class Term:
    """One term: its weight, and a sentence that says what it measures and what it is for."""

    name: str
    weight: float
    says: str


def terms_of(run: Run, teachers: Mapping[str, str]) -> tuple[Term, ...]:
    """Return the terms that a run was trained by; `teachers` are networks, by stored feature."""
    return tuple(
        Term(name, term["weight"], _sentence(term, run.config["features"], teachers))
        for name, term in run.objective.items()
    )


def _sentence(
    term: Mapping[str, Any], features: Mapping[str, Any], teachers: Mapping[str, str]
) -> str:
    says = _measured(term, features, teachers)
    if term["weight"] > 0:
        return f"{says}."
    against = "less of that dependence" if "dependence" in term["kind"] else "the opposite of that"
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
                f"How far the deviation of the dimensions of {on} over a batch falls below "
                f"{term['margin']:g}, both views added: it keeps images from sharing one point"
            )
        case "covariance":
            return (
                f"Squared covariances between the dimensions of {on}, both views added: it keeps "
                "them from saying the same twice"
            )
        case "view_dependence":
            return (
                f"1 minus {STATISTICS[term['statistic']]} between {on} of the two views: what "
                "is near in one is to be near in the other"
            )
        case "dependence":
            scaled = ", each dimension divided by its deviation," if term["standardise"] else ""
            return (
                f"1 minus {STATISTICS[term['statistic']]} between {_embedding(term)}{scaled} and "
                f"{_target(term['representation'], features, teachers)}: what is near in one is to "
                "be near in the other"
            )
        case "regression":
            losses = {"cosine": "1 minus the cosine", "squared": "Mean squared difference"}
            return (
                f"{losses[term['loss']]} between what a learned linear map makes of "
                f"{_embedding(term)} and {_target(term['representation'], features, teachers)}: "
                "one is to predict the other"
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
