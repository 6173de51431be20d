"""The ways that are compared, as data: ours, and lightly-train's with our settings and its own.

`$images`, `$student` and `$teacher` stand for the paths that the command line names.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Options = Mapping[str, Any]

START = "the student as it came"
TEACHER = "its teacher"
OURS = "ours"
BEFORE = "ours, regression of both views, backbone at 0.3 of the rate"
LABELS = "the student, with labels"

STUDENT_MODEL, TEACHER_MODEL = "tf_efficientnet_lite0", "tf_efficientnet_lite2"
STUDENT_SIZE, TEACHER_SIZE = 128, 260
MARGIN = 146 / 128  # the shorter side of a photograph, relative to the side of its centre crop
COLOURS = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # of both networks
BATCH_SIZE = 64
RATE, SLOWER_RATE, WEIGHT_DECAY, MIN_SCALE = 1e-3, 3e-4, 0.01, 0.4

DATASET: Options = {
    "name": "photographs",
    "source": {"kind": "image_folder", "root": "$images"},
    "split": {},
    "shards": {"samples": 200, "max_side": 512},
}
FEATURES: Options = {
    "teacher": {"kind": "timm", "model": TEACHER_MODEL, "weights": "$teacher"},
}
TRAIN: Options = {
    "batch_size": BATCH_SIZE,
    "lr": RATE,
    "optimizer": {"name": "adamw", "weight_decay": WEIGHT_DECAY},
    "augmentation": {"policy": "custom", "min_scale": MIN_SCALE},
    "loading": {"workers": 0},
    "channels_last": True,
    "select": "objective",
    "validate_on": "original",
}
WARMUP_EPOCHS = 0.2
ITS_BATCH_SIZE, ITS_VIEW_SIZE = 128, 224  # the defaults of lightly-train 0.18


@dataclass(frozen=True)
class OurWay:
    """An objective, and how its training differs from `TRAIN`."""

    objective: Options
    train: Options = field(default_factory=dict)


REGRESSION: Options = {"kind": "regression", "loss": "cosine", "whiten": 1, "on": "h"}
OUR_WAYS: Mapping[str, OurWay] = {
    OURS: OurWay(
        {
            "near": {"kind": "affinity", "representation": "teacher", "view": "augmented"},
            "teacher": {**REGRESSION, "view": "augmented"},
        }
    ),
    BEFORE: OurWay({"teacher": {**REGRESSION, "view": "both"}}, {"backbone_lr": 0.3}),
    LABELS: OurWay({"labels": {"view": "augmented"}}),
}


@dataclass(frozen=True)
class PeerWay:
    """Arguments of `lightly_train.pretrain`, and the side in pixels of its views.

    Its student sees them reduced to `student_size`, if that is given; its teacher sees them as they
    are.
    """

    pretrain: Options
    view_size: int
    student_size: int | None = None

    @property
    def batch_size(self) -> int:
        """The number of images in a step."""
        return int(self.pretrain.get("batch_size", ITS_BATCH_SIZE))

    @property
    def trained_size(self) -> int:
        """The side in pixels of the images that the student sees."""
        return self.student_size or self.view_size


def with_our_settings(
    view_size: int, student_size: int | None = None, rate: float = RATE
) -> PeerWay:
    """Return `distillationv1` with our batches, optimiser, rate and boxes of views."""
    return PeerWay(
        {
            "method": "distillationv1",
            # The rate is then taken as it is.
            "method_args": {"reference_batch_size": BATCH_SIZE},
            "batch_size": BATCH_SIZE,
            "optim": "adamw",
            "optim_args": {"lr": rate, "weight_decay": WEIGHT_DECAY},
            "transform_args": {
                "image_size": (view_size, view_size),
                "random_resize": {"min_scale": MIN_SCALE},
                "normalize": COLOURS,
            },
        },
        view_size,
        student_size,
    )


def with_its_settings(method: str) -> PeerWay:
    """Return a method with its own defaults; only the colours are those of the two networks."""
    return PeerWay({"method": method, "transform_args": {"normalize": COLOURS}}, ITS_VIEW_SIZE)


PEERS: Mapping[str, PeerWay] = {
    "distillationv1, our settings, 260 px": with_our_settings(TEACHER_SIZE),
    "distillationv1, our settings, student at 128 px": with_our_settings(
        TEACHER_SIZE, STUDENT_SIZE
    ),
    "distillationv1, our settings, student at 128 px, rate 3e-4": with_our_settings(
        TEACHER_SIZE, STUDENT_SIZE, SLOWER_RATE
    ),
    "distillationv1, our settings, both at 128 px": with_our_settings(STUDENT_SIZE),
    "distillationv1, its settings": with_its_settings("distillationv1"),
    "distillation, its settings": with_its_settings("distillation"),
}
WAYS = (*OUR_WAYS, *PEERS)
CONTROLS = (TEACHER, START)


def recipe(name: str) -> dict[str, Any] | None:
    """Return what the result of a way depends on besides images, steps and seed."""
    if name in PEERS:
        return asdict(PEERS[name])
    if name not in OUR_WAYS:
        return None
    way = OUR_WAYS[name]
    return {
        "objective": way.objective,
        "train": {**TRAIN, **way.train},
        "warmup": WARMUP_EPOCHS,
    }


def experiment(
    run: str, *, way: str = OURS, epochs: int = 1, seed: int = 0, size: int = STUDENT_SIZE
) -> dict[str, Any]:
    """Return the content of an experiment file, for a student that sees images of `size` pixels."""
    return {
        "name": run,
        "seed": seed,
        "dataset": {**DATASET, "image": {"size": size, "resize": round(size * MARGIN), **COLOURS}},
        "features": FEATURES,
        "student": {"architecture": f"timm:{STUDENT_MODEL}", "weights": "$student"},
        "objective": OUR_WAYS[way].objective,
        "train": {
            **TRAIN,
            **OUR_WAYS[way].train,
            "epochs": epochs,
            "schedule": {"kind": "cosine", "warmup_epochs": WARMUP_EPOCHS},
        },
        "evaluate": {},
    }
