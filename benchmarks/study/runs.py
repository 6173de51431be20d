"""How a candidate is run: its config, its training, its scores on validation or test images."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.study.candidates import CANDIDATES, CONTROL, VIEWS, Candidate
from pipeline.base.atomic import write_json
from pipeline.base.devices import device_from
from pipeline.base.progress import Silent
from pipeline.datasets.source import Split
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.knn import KnnOptions, knn_probe
from pipeline.evaluation.linear import LinearOptions, linear_probe
from pipeline.evaluation.subjects import Subject, image_subjects, stored_subject
from pipeline.features.store import FeatureStore
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import SplitData
from pipeline.models.checkpoint import BEST, load_checkpoint
from pipeline.models.encoder import Encoder, build_encoder
from pipeline.models.student import StudentOptions
from pipeline.shards.manifest import read_manifests
from stages.experiment.paths import dataset_layout, run_layout
from stages.terminal.cli import run as mvmr

DATASET = "cifar10"
UNTRAINED = "untrained encoder"
FEATURES: Mapping[str, Mapping[str, Any]] = {
    "scattering": {"J": 2, "L": 8, "reduce": {"pca": 256}},
    "hog": {"reduce": {"pca": 256}},
    "local_std": {"reduce": {"pca": 256}},
}
STUDENT: Mapping[str, Any] = {
    "architecture": "resnet8x2",
    "stem": "3x3/2",
    "projector": [512, 512, 512],
}
TRAIN: Mapping[str, Any] = {
    "epochs": 2,
    "batch_size": 128,
    "lr": 1e-3,
    "channels_last": True,
    "optimizer": {"name": "adam", "weight_decay": 1e-6},
    "schedule": {"kind": "cosine", "warmup_epochs": 0.2},
    "augmentation": {"policy": "cifar20"},
}

Line = Mapping[str, Any]


class Study:
    """All runs of one budget, below one directory; `changes` are overrides for all of them.

    Each result is one file. Existing results are not recomputed, and several processes can divide
    the candidates among them.
    """

    def __init__(self, root: Path, images: Path, teacher: Path, changes: Sequence[str]) -> None:
        self.root = root.resolve()
        self.changes = list(changes)
        clip = {
            "kind": "open_clip",
            "model": "tiny-clip-rn64",
            "config": str(teacher.resolve() / "tiny-clip-rn64.json"),
            "pretrained": str(teacher.resolve() / "tiny-clip-rn64-cifar10.pt"),
        }
        self.features: dict[str, Any] = {**FEATURES, "clip": clip}
        self.base: dict[str, Any] = {
            "name": "study",
            "seed": 0,
            "dataset": {
                "name": DATASET,
                "source": {"kind": "image_folder", "root": str(images.resolve())},
                "split": {"seed": 0, "validation": 0.1, "test": 0},
                "shards": {"samples": 1000, "on_bad_image": "fail"},
                "image": {
                    "size": 32,
                    "channels": 3,
                    "mean": [0.491, 0.482, 0.447],
                    "std": [0.247, 0.243, 0.261],
                },
            },
            "features": self.features,
            "student": STUDENT,
            "objective": VIEWS,
            "train": TRAIN,
            "evaluate": {},
        }

    @property
    def searched(self) -> Path:
        """Results of the search, one file per candidate."""
        return self.root / "search"

    @property
    def confirmed(self) -> Path:
        """Results on test images, one file per candidate and seed."""
        return self.root / "results"

    def prepare(self, names: Sequence[str] | None = None) -> None:
        """Make shards and features, once; those of the candidates `names`, or all."""
        self.root.mkdir(parents=True, exist_ok=True)
        os.chdir(self.root)
        wanted = self.features
        if names is not None:
            wanted = {k: v for name in names for k, v in self._named(CANDIDATES[name]).items()}
        for command in ("shard", "extract-features"):
            self._call(command, {**self.base, "features": wanted})

    def search(self, names: Sequence[str]) -> None:
        """Train every candidate that has no result yet, and score it on validation images."""
        for name in names:
            path = self.searched / f"{identifier(name, 0)}.json"
            if path.exists():
                continue
            began = time.process_time()
            self._train(name, 0)
            seconds = time.process_time() - began
            scores = student_scores(identifier(name, 0), "validation")
            self._record(path, name, 0, {**scores, "cpu_seconds": round(seconds)})

    def confirm(self, names: Sequence[str], seeds: Sequence[int]) -> None:
        """Train each candidate with every seed, and score it once on test images."""
        for seed in seeds:
            for name in names:
                path = self.confirmed / f"{identifier(name, seed)}.json"
                if not path.exists():
                    self._train(name, seed)
                    self._record(path, name, seed, student_scores(identifier(name, seed), "test"))

    def controls(self, seeds: Sequence[int]) -> None:
        """Score the controls: the untrained encoder with every seed, pixels, stored features."""
        options = StudentOptions.model_validate(STUDENT)
        image = ImageOptions.model_validate(self.base["dataset"]["image"])
        images = stored_images(image, "test")
        store = FeatureStore(dataset_layout(DATASET).features)
        subjects = [(0, embedded_subjects({}, images)["pixels"])]
        subjects += [(0, stored_subject(store[name], images)) for name in self.features]
        for seed in seeds:
            encoder = build_encoder(options, channels=image.channels, size=image.size, seed=seed)
            subjects.append((seed, embedded_subjects({UNTRAINED: encoder}, images)[UNTRAINED]))
        for seed, subject in subjects:
            path = self.confirmed / f"{identifier(subject.name, seed)}.json"
            if not path.exists():
                self._record(path, subject.name, seed, scores(subject, images, "test"))

    def _train(self, name: str, seed: int) -> None:
        """Train a candidate, or resume its training."""
        candidate = CANDIDATES[name]
        content = {
            **self.base,
            "name": identifier(name, seed),
            "seed": seed,
            "features": self._named(candidate),
            "student": {**STUDENT, **candidate.student},
            "objective": candidate.terms,
            "train": {**TRAIN, **candidate.train},
        }
        self._call("train", content)

    def _named(self, candidate: Candidate) -> dict[str, Any]:
        """Return the features that a candidate's objective names."""
        named = {term.get("representation", key) for key, term in candidate.terms.items()}
        return {key: value for key, value in self.features.items() if key in named}

    def _record(self, path: Path, name: str, seed: int, scores: Mapping[str, Any]) -> None:
        budget = {"student": STUDENT, "train": TRAIN, "changes": self.changes}
        path.parent.mkdir(exist_ok=True)
        group = CANDIDATES[name].group if name in CANDIDATES else CONTROL
        line = {"name": name, "group": group, "seed": seed, **scores, "budget": budget}
        write_json(path, line)
        print(f"{scores['linear']:6.2f} {scores['knn']:6.2f}  {name}, seed {seed}", flush=True)

    def _call(self, command: str, content: Mapping[str, Any]) -> None:
        config = self.root / "configs" / f"{content['name']}.yaml"
        config.parent.mkdir(exist_ok=True)
        plain = json.loads(json.dumps(content))  # without YAML anchors for shared parts
        with config.open("w", encoding="utf-8") as file:
            YAML().dump(plain, file)
        changes = [part for change in self.changes for part in ("-s", change)]
        code = mvmr([command, "--quiet", "--config", str(config), *changes])
        if code != 0:
            raise SystemExit(code)


def student_scores(run: str, split: Split) -> dict[str, float]:
    """Return the scores of a run's best checkpoint, see `scores`."""
    trained = load_checkpoint(run_layout(run).checkpoints / BEST)
    images = stored_images(trained.image, split)
    return scores(embedded_subjects({run: trained.build()}, images)[run], images, split)


def embedded_subjects(encoders: Mapping[str, Encoder], images: Images) -> dict[str, Subject]:
    """Return encoders and pixels as subjects; their features are cached by the first name."""
    return image_subjects(
        encoders,
        images,
        device=device_from("auto"),
        cache=run_layout(next(iter(encoders), "pixels")).embeddings,
        progress=Silent(),
    )


def stored_images(image: ImageOptions, split: Split) -> Images:
    """Return training and validation images, and those of `split`."""
    shards = dataset_layout(DATASET).shards
    manifests = read_manifests(shards)
    wanted: set[Split] = {"train", "validation", split}
    return Images({s: SplitData(shards / s, manifests[s], {}, image) for s in wanted})


def scores(subject: Subject, images: Images, split: Split) -> dict[str, float]:
    """Return top-1 accuracy in percent on `split`, of the linear probe and k nearest neighbours.

    Both are fitted on training images; penalty, neighbours and temperature are chosen on
    validation images.
    """
    device = device_from("auto")
    train = subject.labelled(images, "train")
    validation = subject.labelled(images, "validation")
    scored = subject.labelled(images, split)
    linear = linear_probe(train, validation, scored, options=LinearOptions(), device=device)
    knn = knn_probe(train, validation, scored, options=KnnOptions(), device=device)
    found = {
        "linear": linear.classifier.classes[linear.test_logits.argmax(dim=1)],
        "knn": knn.classes[knn.test_scores.argmax(dim=1)],
    }
    return {
        protocol: 100 * (predictions == scored.labels).float().mean().item()
        for protocol, predictions in found.items()
    }


def identifier(name: str, seed: int) -> str:
    """Return the name of a candidate's run."""
    letters = "".join(c if c.isalnum() or c in ".+-" else "_" for c in name)
    return f"{letters.replace('+', 'and').replace('.', 'p')}-{seed}"


def read(directory: Path) -> list[Line]:
    """Return the results in a directory, ordered by candidate and seed."""
    lines = [json.loads(path.read_text(encoding="utf-8")) for path in directory.glob("*.json")]
    order = {name: place for place, name in enumerate(CANDIDATES)}
    last = len(order)  # controls
    return sorted(lines, key=lambda li: (order.get(li["name"], last), li["name"], li["seed"]))
