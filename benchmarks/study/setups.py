"""What all candidates of a study have in common: images, stored features, student, training.

`$images` and `$teacher` stand for the paths that the command line names. The last rung is for
finalists; the one before it is about the budget of the shipped experiments.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from string import Template
from typing import Any

from benchmarks.study.candidates import (
    BASELINE,
    GRADIENTS,
    LATER_TERMS,
    REGRESSED,
    REGRESSED_50,
    REGRESSED_150,
    REGRESSED_LOG,
    SELF_SUPERVISED,
    SELF_SUPERVISED_TERMS,
    UNBIASED_50_150,
    UNBIASED_TWO,
    VICREG,
    WITHOUT_TEACHER,
    Candidate,
    Options,
    Terms,
    depends,
    distilled,
    distilled_terms,
    labelled,
    regressed,
    self_supervised,
    with_local_views,
)

LOCAL = f"{GRADIENTS}, four local views"
BEFORE = "the student before training"
PIXELS = "pixels"
WARMUP_SHARE = 0.1
SLOW, FAST, FASTER, FASTEST = "1e-3", "4e-3", "1.2e-2", "3e-2"


@dataclass(frozen=True)
class Setup:
    """A data set with its teacher, a student, and the candidates for both.

    `rungs` are numbers of steps, rounded to whole epochs. `train` lacks the number of epochs and
    their schedule, which follow from a rung.
    """

    name: str
    rungs: tuple[int, ...]
    dataset: Options
    features: Mapping[str, Options]
    student: Options
    train: Options
    candidates: Mapping[str, Candidate]

    @property
    def controls(self) -> tuple[str, ...]:
        """What is scored without training: the student's start, pixels, stored features."""
        return BEFORE, PIXELS, *self.features

    def recipe(self, name: str) -> dict[str, Any]:
        """Return what a candidate's result depends on besides images, rung and seed."""
        candidate = self.candidates[name]
        return {
            "features": self.features_of(name),
            "student": {**self.student, **candidate.student},
            "objective": candidate.terms,
            "train": {**self.train, **candidate.train},
        }

    def features_of(self, name: str) -> dict[str, Options]:
        """Return the stored features that a candidate needs, of crops too if it trains on them."""
        return self._stored(name, of_crops=self._crops_of(name))

    def shared_features_of(self, name: str) -> dict[str, Options]:
        """Return the same features in the one form that all candidates can train on."""
        return self._stored(name, of_crops=set().union(*map(self._crops_of, self.candidates)))

    def _stored(self, name: str, *, of_crops: Container[str]) -> dict[str, Options]:
        named = self._named(name)
        return {
            key: {**value, "views": True} if key in of_crops else value
            for key, value in self.features.items()
            if key in named
        }

    def _crops_of(self, name: str) -> set[str]:
        train = {**self.train, **self.candidates[name].train}
        return self._named(name) if train["stored_views"] else set()

    def _named(self, name: str) -> set[str]:
        terms = self.candidates[name].terms
        return {term.get("representation", key) for key, term in terms.items()}

    def experiment(self, run: str, name: str, *, epochs: int, seed: int) -> dict[str, Any]:
        """Return the content of an experiment file, with `$images` and `$teacher` in it."""
        recipe = self.recipe(name)
        schedule = {"kind": "cosine", "warmup_epochs": WARMUP_SHARE * epochs}
        return {
            "name": run,
            "seed": seed,
            "dataset": self.dataset,
            **recipe,
            "features": self.shared_features_of(name),
            "train": {**recipe["train"], "epochs": epochs, "schedule": schedule},
            "evaluate": {},
        }


def filled(content: Any, paths: Mapping[str, str]) -> Any:
    """Return a content with `$name` replaced in all its texts."""
    if isinstance(content, Mapping):
        return {key: filled(value, paths) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [filled(value, paths) for value in content]
    return Template(content).safe_substitute(paths) if isinstance(content, str) else content


def at_rate(rate: str, *names: str) -> dict[str, Candidate]:
    """Return candidates without a teacher at another rate; at `FAST`, VICReg is the reference."""
    return {
        f"{name}, rate {rate}": Candidate(
            track, terms[name], {"lr": float(rate)}, reference=(name, rate) == (BASELINE, FAST)
        )
        for track, terms in WITHOUT_TEACHER.items()
        for name in names
        if name in terms
    }


def of_stored_views(name: str) -> dict[str, Candidate]:
    """Return a candidate without a teacher that sees stored crops with their own targets.

    The second one has a student twice as wide.
    """
    seen = Candidate(SELF_SUPERVISED, SELF_SUPERVISED_TERMS[name], {"lr": float(FASTER), **STORED})
    return {
        f"{name}, stored views, rate {FASTER}": seen,
        f"{name}, stored views, resnet8x4, rate {FASTER}": replace(
            seen, student={"architecture": "resnet8x4"}
        ),
    }


def of_resnet18(given: Mapping[str, Candidate], *rates: str) -> dict[str, Candidate]:
    """Return candidates at some rates, with the student of `folder_*`."""
    student = {"architecture": "resnet18", "stem": None}
    return {
        f"{name}, resnet18, rate {rate}": replace(
            one, train={**one.train, "lr": float(rate)}, student=student
        )
        for name, one in given.items()
        for rate in rates
    }


def taught_at_rate(
    rate: str, objectives: Mapping[str, Terms], *names: str, **train: Any
) -> dict[str, Candidate]:
    """Return distilled candidates of these names, all unless there are any, at another rate."""
    again = {f"{name}, rate {rate}": objectives[name] for name in names or objectives}
    return distilled(again, train={**train, "lr": float(rate)})


STUDENT: Options = {
    "architecture": "resnet8x2",
    "stem": "3x3/2",
    "projector": [512, 512, 512],
}
HAND_CRAFTED: Mapping[str, Options] = {
    "scattering": {"J": 2, "L": 8, "reduce": {"pca": 256}},
    "scattering_log": {"kind": "scattering", "log": True, "reduce": {"pca": 256}},
    "hog": {"reduce": {"pca": 256}},
    "local_std": {"reduce": {"pca": 256}},
}
ADAM: Options = {
    "lr": 1e-3,
    "channels_last": True,
    "optimizer": {"name": "adam", "weight_decay": 1e-6},
    "stored_views": False,
}
# Half the time where a core multiplies bfloat16, in the small residual network alone.
SMALL: Options = {"precision": "bf16"}
STORED: Options = {"stored_views": True}
# Larger boxes for what a teacher sees than for self-supervision.
BOXES: Options = {"augmentation": {"policy": "custom", "min_scale": 0.4}}

CLIP: Options = {
    "kind": "open_clip",
    "model": "tiny-clip-rn64",
    "config": "$teacher/tiny-clip-rn64.json",
    "pretrained": "$teacher/tiny-clip-rn64-cifar10.pt",
}
CLIP_DEFAULT = "clip regressed + 0.3 on standardised h, both"
CLIP_AND_SCATTERING = "clip and whitened scattering regressed, relative"
DISTILLED_CLIP = distilled_terms("clip", "clip_components")
CIFAR10 = Setup(
    name="cifar10",
    rungs=(600, 2_400, 10_000),
    dataset={
        "name": "cifar10",
        "source": {"kind": "image_folder", "root": "$images"},
        "split": {"method": "exact", "seed": 0, "validation": 0.1, "test": 0},
        "shards": {"samples": 1000, "on_bad_image": "fail"},
        "image": {
            "size": 32,
            "channels": 3,
            "mean": [0.491, 0.482, 0.447],
            "std": [0.247, 0.243, 0.261],
        },
        "views": {"count": 4, "min_scale": 0.2},
    },
    features={
        **HAND_CRAFTED,
        "clip": {**CLIP, "views": True},
        "clip_components": {**CLIP, "reduce": {"pca": 128}},
    },
    student=STUDENT,
    train={**ADAM, **SMALL, "batch_size": 128, "augmentation": {"policy": "cifar20"}},
    candidates={
        **self_supervised(),
        "vicreg, both views augmented": Candidate(SELF_SUPERVISED, VICREG, {"augment_both": True}),
        LOCAL: Candidate(SELF_SUPERVISED, SELF_SUPERVISED_TERMS[GRADIENTS], with_local_views(20)),
        **distilled(DISTILLED_CLIP, reference=CLIP_DEFAULT),
        **distilled({"clip regressed, stored views": {"clip": regressed("clip")}}, train=STORED),
        **at_rate(FAST, BASELINE, GRADIENTS, REGRESSED, *LATER_TERMS),
        **at_rate(FASTER, BASELINE, GRADIENTS, REGRESSED, REGRESSED_LOG),
        **at_rate(FASTER, REGRESSED_50, REGRESSED_150, UNBIASED_TWO, UNBIASED_50_150),
        **at_rate(FASTEST, REGRESSED),
        **of_stored_views(REGRESSED),
        **of_stored_views(REGRESSED_LOG),
        **taught_at_rate(FAST, DISTILLED_CLIP, CLIP_DEFAULT),
        **taught_at_rate(FASTER, DISTILLED_CLIP, CLIP_DEFAULT, CLIP_AND_SCATTERING),
        **taught_at_rate(FASTEST, DISTILLED_CLIP, CLIP_DEFAULT),
        **distilled({f"{CLIP_DEFAULT}, custom views": DISTILLED_CLIP[CLIP_DEFAULT]}, train=BOXES),
    },
)

EFFICIENTNET: Options = {"kind": "timm", "model": "tf_efficientnet_lite0", "weights": "$teacher"}
EFFNET_NEAR = "effnet by affinity"
EFFNET_AND_HAND_CRAFTED = "effnet, hog and whitened log scattering regressed, relative"
EFFNET_NEAR_AND_HAND_CRAFTED = (
    "effnet by affinity, hog and whitened log scattering regressed, relative"
)
DISTILLED_EFFNET = distilled_terms("effnet", "effnet_components")
WHITENED = {"effnet regressed, whitened 1": {"effnet": regressed("effnet", whiten=1)}}
NEAR_AND_REGRESSED: Mapping[str, Terms] = {
    "effnet by affinity and regressed, whitened 1": {
        **DISTILLED_EFFNET[EFFNET_NEAR],
        "regressed": regressed("effnet", whiten=1),
    },
}


def photographs(*, size: int, resize: int, max_side: int) -> Options:
    """Return a data set of photographs with train, validation and test of their own."""
    return {
        "name": f"photographs-{size}",
        "source": {"kind": "image_folder", "root": "$images"},
        "split": {},
        "shards": {"samples": 200, "max_side": max_side},
        "image": {"size": size, "resize": resize, "mean": [0.5] * 3, "std": [0.5] * 3},
        "views": {"count": 4, "min_scale": 0.4},
    }


PHOTOGRAPHS_64 = Setup(
    name="photographs-64",
    rungs=(150, 600, 2_400),
    dataset=photographs(size=64, resize=72, max_side=320),
    features={
        **HAND_CRAFTED,
        "effnet": {**EFFICIENTNET, "views": True},
        "effnet_components": {**EFFICIENTNET, "reduce": {"pca": 256}},
    },
    student=STUDENT,
    train={
        **ADAM,
        **SMALL,
        "batch_size": 64,
        "augmentation": {"policy": "custom", "min_scale": 0.2},
    },
    candidates={
        **self_supervised(
            "barlow",
            "invariance + sigreg",
            "vicreg + hog regressed, 50 to 5",
            "vicreg + scattering on h, 25 to 1, whitened 1",
            "vicreg + scattering on h, 5, whitened 0.5",
        ),
        LOCAL: Candidate(SELF_SUPERVISED, SELF_SUPERVISED_TERMS[GRADIENTS], with_local_views(40)),
        **distilled(
            DISTILLED_EFFNET,
            reference="effnet regressed",
            train=BOXES,
        ),
        **distilled(
            {f"{name}, stored views": terms for name, terms in WHITENED.items()},
            train={**BOXES, **STORED},
        ),
        **at_rate(FAST, BASELINE, GRADIENTS, REGRESSED, *LATER_TERMS),
        **at_rate(FASTER, BASELINE, GRADIENTS, REGRESSED, REGRESSED_LOG),
        **of_resnet18(
            {GRADIENTS: Candidate(SELF_SUPERVISED, SELF_SUPERVISED_TERMS[GRADIENTS])},
            SLOW,
            FAST,
            FASTER,
        ),
        **of_resnet18(distilled(NEAR_AND_REGRESSED, train=BOXES), SLOW, FAST),
        **taught_at_rate(FASTER, WHITENED, **BOXES),
        **labelled(view="both", rate=FASTER, train=BOXES),
        **taught_at_rate(FAST, WHITENED, **BOXES),
        **taught_at_rate(
            FAST,
            DISTILLED_EFFNET,
            EFFNET_NEAR,
            EFFNET_AND_HAND_CRAFTED,
            EFFNET_NEAR_AND_HAND_CRAFTED,
            **BOXES,
        ),
        **taught_at_rate(FAST, NEAR_AND_REGRESSED, **BOXES),
        **taught_at_rate(
            FAST,
            {
                f"{EFFNET_NEAR}, stored views": DISTILLED_EFFNET[EFFNET_NEAR],
                **{f"{name}, stored views": own for name, own in NEAR_AND_REGRESSED.items()},
            },
            **BOXES,
            **STORED,
        ),
        **labelled(view="both", train=BOXES),
        **labelled(view="both", rate=FAST, train=BOXES),
    },
)

# A step of the augmented view alone costs half of one with both.
ONE_VIEW: Options = {"view": "augmented"}
TAUGHT = regressed("effnet", whiten=1, **ONE_VIEW)
ONE_VIEW_DEPENDENCE = depends("effnet", standardise=True, **ONE_VIEW)
WITH_STORED_CROPS: Mapping[str, Terms] = {
    "stored crops": {"effnet": TAUGHT},
    "stored crops, both views": {"effnet": {**TAUGHT, "view": "both"}},
    "stored crops, as stored": {"effnet": regressed("effnet", **ONE_VIEW)},
    "stored crops, cosine and smooth L1": {"effnet": {**TAUGHT, "loss": "cosine_smooth_l1"}},
    "stored crops, by affinity": {"effnet": {"kind": "affinity", **ONE_VIEW}},
    "stored crops, by dependence": {"effnet": ONE_VIEW_DEPENDENCE},
    "stored crops + 0.3 on standardised h": {
        "regressed": TAUGHT,
        "effnet": {**ONE_VIEW_DEPENDENCE, "weight": 0.3},
    },
}
# What `folder_clip` does now.
AFFINITY_AND_REGRESSION: Terms = {
    "near": {"kind": "affinity", "representation": "effnet", **ONE_VIEW},
    "effnet": TAUGHT,
}
ONE_RATE: Options = {"backbone_lr": 1.0}
PHOTOGRAPHS_128 = Setup(
    name="photographs-128",
    rungs=(100, 200, 400),
    dataset=photographs(size=128, resize=146, max_side=512),
    features={"effnet": {**EFFICIENTNET, "views": True}},
    student={"architecture": "timm:tf_efficientnet_lite0", "weights": "$teacher"},
    train={
        **ADAM,
        **BOXES,
        "batch_size": 64,
        "backbone_lr": 0.3,
        "optimizer": {"name": "adamw", "weight_decay": 0.01},
    },
    candidates={
        **distilled(WITH_STORED_CROPS, reference="stored crops", train=STORED),
        **distilled({"random crops": {"effnet": TAUGHT}}),
        **distilled(
            {"stored crops, batch norms re-estimated": {"effnet": TAUGHT}},
            train={**STORED, "recalibrate": 1280},
        ),
        **distilled({"stored crops, one rate": {"effnet": TAUGHT}}, train={**STORED, **ONE_RATE}),
        **distilled(
            {"random crops, affinity and regression, one rate": AFFINITY_AND_REGRESSION},
            train=ONE_RATE,
        ),
        **distilled(
            {"stored crops, affinity and regression, one rate": AFFINITY_AND_REGRESSION},
            train={**STORED, **ONE_RATE},
        ),
        **labelled(view="augmented"),
    },
)

SETUPS: Mapping[str, Setup] = {
    setup.name: setup for setup in (CIFAR10, PHOTOGRAPHS_64, PHOTOGRAPHS_128)
}
