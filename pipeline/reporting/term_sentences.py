"""A sentence on what each term of an objective asks of the encoder, made from its options."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.objective.weights import ChangingWeight, as_weight, weight_text
from pipeline.reporting.formats import number
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
# What a term is without any learning, by its kind.
TRIVIAL_ANSWERS = {
    "invariance": "that between different images",
    "view_dependence": "that between different images",
    "dependence": "that between different images",
    "regression": "that of the best constant",
    "affinity": "that of the best constant",
    "labels": "that of naming each class with its share of the training images",
    "variance": "that of an embedding that is the same for all images",
    "barlow": "that of an embedding that is the same for all images",
    "sigreg": "that of an embedding that is the same for all images",
}
VIEWS = {
    "original": "the image",
    "augmented": "a random view",
    "both": "either view",
    "local": "any local view",
    "all": "any view, also local ones,",
}
PAIRS = {
    "both": "the two views",
    "local": "a local view and a global one",
    "all": "two views, at least one of them global",
}
SUMS = {
    "both": "summed over both views",
    "local": "twice the mean over local views",
    "all": "twice the mean over all views",
}
AUGMENTED = "the pixels of another random view, drawn for every batch"


@dataclass(frozen=True)
class TermSentence:
    """One term: its weight, and a sentence on what it measures and why.

    `trivial` says, after "is", what its value without any learning is; empty if there is none.
    """

    name: str
    weight: float | ChangingWeight
    says: str
    trivial: str = ""

    @property
    def shown_weight(self) -> str:
        """The weight, or its first and last value."""
        if isinstance(self.weight, ChangingWeight):
            return weight_text(self.weight)
        return number(self.weight)


def terms_of(run: RunFacts, teachers: Mapping[str, str]) -> tuple[TermSentence, ...]:
    """Return the terms that a run was trained with; `teachers` maps features to networks."""
    local = (run.config["train"] or {}).get("views", {}).get("local")
    return tuple(
        TermSentence(
            name,
            as_weight(term["weight"]),
            _sentence(
                {**term, "view": _view(term, local=bool(local))}, run.config["features"], teachers
            ),
            TRIVIAL_ANSWERS.get(term["kind"], ""),
        )
        for name, term in run.objective.items()
    )


def _view(term: Mapping[str, Any], *, local: bool) -> str:
    """Return the views on which a term acted, of which only training on local ones has these."""
    view = str(term.get("view", "all"))
    return view if local or view not in ("local", "all") else "both"


def _sentence(
    term: Mapping[str, Any], features: Mapping[str, Any], teachers: Mapping[str, str]
) -> str:
    says = _measured(term, features, teachers)
    weight = as_weight(term["weight"])
    if isinstance(weight, ChangingWeight):
        return f"{says}. The weight goes from {weight.start:g} to {weight.to:g}."
    if weight > 0:
        return f"{says}."
    against = "less of that dependence" if "dependence" in term["kind"] else "the opposite"
    return f"{says}. The weight is negative: training asks for {against}."


def _measured(
    term: Mapping[str, Any], features: Mapping[str, Any], teachers: Mapping[str, str]
) -> str:
    on, pair = term["on"], PAIRS.get(term["view"])
    match term["kind"]:
        case "invariance":
            return f"Mean squared difference between {on} of {pair}: it pulls them together"
        case "variance":
            return (
                f"How far the standard deviation of each dimension of {on} over a batch falls "
                f"below {term['margin']:g}, {SUMS[term['view']]}: it keeps images from "
                "collapsing to one point"
            )
        case "covariance":
            return (
                f"Squared covariances between the dimensions of {on}, {SUMS[term['view']]}: it "
                "keeps them from carrying the same information"
            )
        case "view_dependence":
            return (
                f"1 minus {STATISTICS[term['statistic']]} between {on} of {pair}: images "
                "that are near in one should be near in the other"
            )
        case "dependence":
            divided = ", each dimension divided by its standard deviation,"
            scaled = divided if term["standardise"] else ""
            return (
                f"1 minus {STATISTICS[term['statistic']]} between {_embedding(term)}{scaled} and "
                f"{_target(term['representation'], features, teachers)}{_geometry(term)}: images "
                "that are near in one should be near in the other"
            )
        case "regression":
            losses = {
                "cosine": "1 minus the cosine",
                "squared": "Mean squared difference",
                "cosine_smooth_l1": "Half of 1 minus the cosine and half of the smooth L1 distance",
            }
            relative = (
                ", as a share of what the best constant leaves," if term.get("relative") else ""
            )
            return (
                f"{losses[term['loss']]}{relative} between {_map(term)} of {_embedding(term)} and "
                f"{_target(term['representation'], features, teachers)}{_geometry(term)}: "
                "the first should predict the second"
            )
        case "affinity":
            return (
                f"Divergence of softmax similarities to at most {term['bank']:,} stored "
                f"targets, of {_map(term)} of {_embedding(term)} from "
                f"{_target(term['representation'], features, teachers)}{_geometry(term)}: an image "
                "should be near those that its target is near"
            )
        case "labels":
            return (
                "Cross-entropy of the labels and a linear classifier of "
                f"{_embedding(term)}: classes should be told apart"
            )
        case "barlow":
            return (
                f"Cross-correlations between the dimensions of {on} of {pair}, compared "
                "with the identity: each dimension should be the same in both views and carry "
                "information of its own"
            )
        case "sigreg":
            return (
                f"Distance of the distribution of {on} from the standard normal one, along "
                f"{term['directions']:,} random directions: it keeps images from collapsing"
            )
        case "own":
            views = " and ".join(VIEWS[view] for view in term["needs"])
            name = term["representation"]
            beside = f" and {_target(name, features, teachers)}" if name is not None else ""
            return f"{term['code']}, a loss that the experiment defines, of {on} of {views}{beside}"
        case kind:
            return f"A term of kind {kind}"


def _map(term: Mapping[str, Any]) -> str:
    return "a learned map of two layers" if term.get("layers") == 2 else "a learned linear map"


def _geometry(term: Mapping[str, Any]) -> str:
    match term.get("whiten"):
        case None:
            return ""
        case 0:
            return ", centred"
        case 1:
            return ", each component standardised"
        case "phi_s":
            return ", its components rotated to vary alike and divided by one number"
        case power:
            return f", each component divided by its deviation to the power of {power:g}"


def _embedding(term: Mapping[str, Any]) -> str:
    return f"{term['on']} of {VIEWS[term['view']]}"


def _target(name: str, features: Mapping[str, Any], teachers: Mapping[str, str]) -> str:
    if name in teachers:
        return f"the stored embedding of the image by the teacher {teachers[name]}"
    stored = features.get(name)
    kind = name if stored is None else stored["kind"]
    if kind == "augmented":
        return AUGMENTED
    if kind in ("own", "given"):
        return f"the image's stored {name}"
    return f"the image's {'' if stored is None else 'stored '}{KINDS.get(kind, kind)}"
