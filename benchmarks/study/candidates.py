"""The objectives that the study compares, in groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Terms = Mapping[str, Mapping[str, Any]]

VIEWS: Terms = {"invariance": {}, "variance": {}, "view_dependence": {}}
# VICReg's 25, 25, 1: our variance sums over the two views, where VICReg takes their mean.
VICREG: Terms = {
    "invariance": {"weight": 25.0},
    "variance": {"weight": 12.5},
    "covariance": {"weight": 1.0},
}
FIVE = ("pixels", "scattering", "augmented", "hog", "local_std")
REGRESSED: Mapping[str, Any] = {"kind": "regression", "representation": "clip"}

NO_REPRESENTATION = "self-supervised, no representation"
BASELINE = "self-supervised, VICReg"
MVMR = "self-supervised, MV-MR"
BY_DEPENDENCE = "distilled by dependence"
BY_REGRESSION = "distilled by regression"
BY_BOTH = "distilled by both"
JOINT = "distilled and self-supervised"
CONTROL = "control"


@dataclass(frozen=True)
class Candidate:
    """An objective in its group; `train` and `student` override the common settings."""

    group: str
    terms: Terms
    train: Mapping[str, Any] = field(default_factory=dict)
    student: Mapping[str, Any] = field(default_factory=dict)


def depends(names: Sequence[str], *, weight: float = 1.0, **options: Any) -> Terms:
    """Return a dependence term on each representation; `weight` is divided among them."""
    share = weight / len(names)
    return {name: {"kind": "dependence", "weight": share, **options} for name in names}


def _published() -> dict[str, Terms]:
    """Return all five representations on z at weight 1, with both signs and all statistics."""
    return {
        f"five on z, {sign}, {statistic}": {
            **VIEWS,
            **depends(FIVE, weight=weight * len(FIVE), statistic=statistic),
        }
        for sign, weight in (("maximised", 1.0), ("minimised", -1.0))
        for statistic in ("dcor", "dcor_squared", "dcor_squared_unbiased")
    }


REGRESSIONS = (
    ("scattering", 5.0),
    ("scattering", 50.0),
    ("scattering", 150.0),
    ("hog", 50.0),
    ("hog", 150.0),
)


def _on_features() -> dict[str, Terms]:
    """Return dependence on the backbone's features: weights, sets, statistics, regression."""
    found: dict[str, Terms] = {
        "views + scattering on h, 5": {**VIEWS, **depends(("scattering",), on="h", weight=5.0)},
        "views + five on h, 5": {**VIEWS, **depends(FIVE, on="h", weight=5.0)},
    }
    for weight in (1.0, 5.0, 25.0):
        terms = depends(("scattering",), on="h", weight=weight)
        found[f"vicreg + scattering on h, {weight:g}"] = {**VICREG, **terms}
    for names in (("hog",), ("scattering", "hog"), ("scattering", "pixels"), FIVE):
        what = "five" if names == FIVE else " and ".join(names)
        found[f"vicreg + {what} on h, 5"] = {**VICREG, **depends(names, on="h", weight=5.0)}
    options: Mapping[str, Mapping[str, Any]] = {
        "minimised": {"weight": -5.0},
        "both views": {"weight": 5.0, "view": "both"},
        "unbiased": {"weight": 5.0, "statistic": "dcor_squared_unbiased"},
        "standardised": {"weight": 5.0, "standardise": True},
    }
    for what, option in options.items():
        terms = depends(("scattering",), on="h", **option)
        found[f"vicreg + scattering on h, 5, {what}"] = {**VICREG, **terms}
    for name, weight in REGRESSIONS:
        regressed = {name: {"kind": "regression", "weight": weight}}
        found[f"vicreg + {name} regressed, {weight:g}"] = {**VICREG, **regressed}
    found["hog regressed, no other term"] = {"hog": {"kind": "regression"}}
    for weight in (25.0, 75.0):
        both = {name: {"kind": "regression", "weight": weight} for name in ("scattering", "hog")}
        found[f"vicreg + scattering and hog regressed, {weight:g} each"] = {**VICREG, **both}
    return found


def _self_supervised() -> dict[str, Candidate]:
    both = {"augment_both": True}
    found = {
        "views alone": Candidate(NO_REPRESENTATION, VIEWS),
        "vicreg": Candidate(BASELINE, VICREG),
        "vicreg, both views augmented": Candidate(BASELINE, VICREG, both),
    }
    found |= {name: Candidate(MVMR, terms) for name, terms in _published().items()}
    on_features = _on_features()
    found |= {name: Candidate(MVMR, terms) for name, terms in on_features.items()}
    found |= {
        f"{name}, both views augmented": Candidate(MVMR, on_features[name], both)
        for name in ("vicreg + scattering on h, 1", "vicreg + scattering on h, 5")
    }
    return found


def _distilled() -> dict[str, Candidate]:
    on_z_and_h: Terms = {
        "clip": {"kind": "dependence", "weight": 10.0},
        "clip_h": {"kind": "dependence", "representation": "clip", "on": "h", "weight": 10.0},
    }
    dependence: dict[str, Terms] = {
        "clip on z, published": {**VIEWS, **depends(("clip",))},
        "clip on z and h, 10": {**VIEWS, **on_z_and_h},
    }
    for view in ("augmented", "both"):
        for statistic in ("dcor", "dcor_squared", "dcor_squared_unbiased"):
            terms = depends(("clip",), on="h", view=view, statistic=statistic)
            dependence[f"clip on h, {view}, {statistic}"] = terms
    for statistic in ("dcor", "dcor_squared_unbiased"):
        terms = depends(("clip",), on="h", statistic=statistic, standardise=True)
        dependence[f"clip on standardised h, {statistic}"] = terms
    regression: dict[str, Terms] = {
        f"clip regressed, {loss}, {view}": {"clip": {**REGRESSED, "loss": loss, "view": view}}
        for loss in ("cosine", "squared")
        for view in ("augmented", "both")
    }
    mixed: dict[str, Terms] = {
        f"clip regressed + {weight:g} on h, {view}": {
            "regressed": {**REGRESSED, "view": view},
            **depends(("clip",), on="h", view=view, weight=weight),
        }
        for weight in (0.3, 1.0, 3.0)
        for view in ("augmented", "both")
    }
    for view in ("augmented", "both"):
        mixed[f"clip regressed + 0.3 on standardised h, {view}"] = {
            "regressed": {**REGRESSED, "view": view},
            **depends(("clip",), on="h", view=view, weight=0.3, standardise=True),
        }
    joint: dict[str, Terms] = {
        f"{what} + clip regressed, {weight:g}": {
            **base,
            "regressed": {**REGRESSED, "view": "both", "weight": weight},
        }
        for what, base in (("vicreg", VICREG), ("views", VIEWS))
        for weight in (10.0, 50.0)
    }
    clip = depends(("clip",), on="h", view="both", weight=50.0)
    joint["vicreg + clip on h, 50"] = {**VICREG, **clip}
    everything = {
        "regressed": {**REGRESSED, "view": "both", "weight": 50.0},
        **depends(("clip",), on="h", view="both", weight=15.0, standardise=True),
    }
    joint["vicreg + clip regressed, 50, + 15 on standardised h"] = {**VICREG, **everything}
    groups = (
        (BY_DEPENDENCE, dependence),
        (BY_REGRESSION, regression),
        (BY_BOTH, mixed),
        (JOINT, joint),
    )
    found = {
        name: Candidate(group, terms)
        for group, members in groups
        for name, terms in members.items()
    }
    for statistic in ("dcor", "dcor_squared_unbiased"):
        terms = depends(("clip",), on="z", statistic=statistic)
        found[f"clip on a linear map of h, {statistic}"] = Candidate(
            BY_DEPENDENCE, terms, student={"projector": [128]}
        )
    return found


def _published_elsewhere() -> dict[str, Candidate]:
    """Return objectives without a representation that others use."""
    sigreg: Terms = {"invariance": {"weight": 0.98}, "sigreg": {"weight": 0.02}}
    return {
        "barlow": Candidate(NO_REPRESENTATION, {"barlow": {}}),
        "barlow, both views augmented": Candidate(
            NO_REPRESENTATION, {"barlow": {}}, {"augment_both": True}
        ),
        "invariance + sigreg": Candidate(NO_REPRESENTATION, sigreg),
        "invariance + sigreg, both views augmented": Candidate(
            NO_REPRESENTATION, sigreg, {"augment_both": True}
        ),
    }


def _in_geometries() -> dict[str, Candidate]:
    """Return hand-crafted targets in other geometries, and with weights that fall."""
    found: dict[str, Candidate] = {}
    for name in ("scattering", "hog"):
        for whiten in (0.0, 0.5, 1.0):
            white = {"kind": "regression", "weight": 50.0, "whiten": whiten}
            found[f"vicreg + {name} regressed, 50, whitened {whiten:g}"] = Candidate(
                MVMR, {**VICREG, name: white}
            )
        for whiten in (0.5, 1.0):
            terms = depends((name,), on="h", weight=5.0, whiten=whiten)
            found[f"vicreg + {name} on h, 5, whitened {whiten:g}"] = Candidate(
                MVMR, {**VICREG, **terms}
            )
        near = {"kind": "affinity", "weight": 10.0}
        found[f"vicreg + {name} by affinity, 10"] = Candidate(MVMR, {**VICREG, name: near})
    for last in (5.0, 0.5):
        falling = {"kind": "regression", "weight": {"from": 50.0, "to": last}}
        found[f"vicreg + hog regressed, 50 to {last:g}"] = Candidate(
            MVMR, {**VICREG, "hog": falling}
        )
    both: Terms = {
        "hog": {"kind": "regression", "weight": 15.0, "relative": True},
        "scattering": {"kind": "regression", "weight": 15.0, "relative": True, "whiten": 1.0},
    }
    found["vicreg + hog and whitened scattering regressed, 15 relative"] = Candidate(
        MVMR, {**VICREG, **both}
    )
    return found


def _distilled_otherwise() -> dict[str, Candidate]:
    """Return other losses, heads and geometries of regression, and affinity, of both views."""
    found = {
        f"clip regressed, cosine, both, whitened {whiten:g}": {
            "clip": {**REGRESSED, "whiten": whiten}
        }
        for whiten in (0.0, 0.5, 1.0)
    }
    halves = {**REGRESSED, "loss": "cosine_smooth_l1", "whiten": 1.0}
    found["clip regressed, halves, both, whitened 1"] = {"clip": halves}
    found["clip regressed, cosine, both, two layers"] = {"clip": {**REGRESSED, "layers": 2}}
    found["clip regressed, halves, both, whitened 1, two layers"] = {
        "clip": {**halves, "layers": 2}
    }
    for warmth in (0.04, 0.07, 0.2):
        near = {"kind": "affinity", "temperature": warmth, "target_temperature": warmth}
        found[f"clip by affinity, both, {warmth:g}"] = {"clip": near}
    found["clip regressed + affinity, both"] = {
        "clip": {**REGRESSED},
        "near": {"kind": "affinity", "representation": "clip", "weight": 0.3},
    }
    return {name: Candidate(BY_REGRESSION, terms) for name, terms in found.items()}


CANDIDATES: Mapping[str, Candidate] = {
    **_self_supervised(),
    **_distilled(),
    **_published_elsewhere(),
    **_in_geometries(),
    **_distilled_otherwise(),
}

# Confirmed whatever the search finds: the published objectives, with both signs.
ALWAYS = ("five on z, maximised, dcor", "five on z, minimised, dcor", "clip on z, published")
