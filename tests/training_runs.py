"""Small training runs on digits, which several tests share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipeline.base.progress import Silent
from pipeline.datasets.digits import DigitsOptions
from pipeline.datasets.source import Split
from pipeline.datasets.split import SplitOptions, cut
from pipeline.features.extraction.cluster import ClusterOptions
from pipeline.features.extraction.engine import extract
from pipeline.features.store import FeatureStore
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import SplitData
from pipeline.models.student import StudentOptions
from pipeline.objective.terms import ObjectiveOptions
from pipeline.representations.hog import HogOptions
from pipeline.representations.pixels import PixelsOptions
from pipeline.shards.manifest import read_manifests
from pipeline.shards.writing import ShardOptions, write_split
from pipeline.training.run import Run
from pipeline.training.train_options import TrainOptions

IMAGE = ImageOptions(size=8, channels=1, mean=(0.3,), std=(0.4,))
STUDENT = StudentOptions(architecture="resnet8", projector=(16, 16))
SELF_SUPERVISED: dict[str, Any] = {
    "invariance": {},
    "variance": {},
    "view_dependence": {},
    "hog": {"kind": "dependence"},
    "pixels": {"kind": "dependence", "on": "h"},
}
TRAIN: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 50,
    "lr": 3e-3,
    "augmentation": {"flip_p": 0, "min_scale": 0.5},
    "schedule": {"warmup_epochs": 0.5},
    "parallel": {"accelerator": "cpu"},  # on which runs repeat to the last bit
}

RESUMED: dict[str, Any] = {"epochs": 4, "ema": 0.9, "saving": {"steps": 1}}


def objective(terms: Mapping[str, Any]) -> Any:
    return TypeAdapter(ObjectiveOptions).validate_python(terms)


def make_data(root: Path, hog: HogOptions | None = None) -> None:
    source = DigitsOptions().open()
    splits = cut(source, SplitOptions(method="exact", validation=0.05))
    wanted: dict[Split, Any] = {
        "train": splits["train"][:250],
        "validation": splits["validation"],
    }
    for split, items in wanted.items():
        write_split(
            source,
            items,
            root / "shards" / split,
            dataset="digits",
            split=split,
            options=ShardOptions(samples=100),
            provenance={},
            progress=Silent(),
        )
    extract(
        {"hog": hog or HogOptions(cell=4)},
        image=IMAGE,
        shards=root / "shards",
        store=FeatureStore(root / "features.zarr"),
        work=root / "work",
        options=ClusterOptions(workers=1),
        progress=Silent(),
    )


def make_run(root: Path, terms: Mapping[str, Any] = SELF_SUPERVISED, **train: Any) -> Run:
    manifests = read_manifests(root / "shards")
    features = {"hog": FeatureStore(root / "features.zarr")["hog"]} if "hog" in terms else {}

    def split(name: Split) -> SplitData:
        return SplitData(root / "shards" / name, manifests[name], features, IMAGE)

    return Run(
        train=split("train"),
        validation=split("validation"),
        student=STUDENT,
        objective=objective(terms),
        live={"pixels": PixelsOptions().build(IMAGE)} if "pixels" in terms else {},
        options=TrainOptions.model_validate({**TRAIN, **train}),
        seed=5,
        about={},
    )
