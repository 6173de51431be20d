"""Every config of `configs/` without data: shapes, schedule, terms, cost, and one step."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

import mvmr
from pipeline.base.errors import DataError
from pipeline.images.original_view import ImageOptions
from pipeline.loading.batch import Batch
from pipeline.models.encoder import build_encoder
from pipeline.objective.objective import Objective
from pipeline.objective.references import Reference
from pipeline.objective.terms import representations_of
from pipeline.representations.representation import RepresentationOptions
from pipeline.representations.teachers.open_clip import OpenClipOptions
from pipeline.training.module import StudentModule
from pipeline.training.schedules import learning_rate
from stages.experiment.schema import Experiment, load

CONFIGS = Path(__file__).parents[2] / "configs"
EXPERIMENTS = {path.stem: load(path) for path in sorted(CONFIGS.glob("*.yaml"))}
TRAINED = [name for name, experiment in EXPERIMENTS.items() if experiment.train is not None]
# These steps take seconds each, because of their projectors of 8192 x 8192.
WIDE = [name for name in TRAINED if 8192 in EXPERIMENTS[name].student.projector]
# Training images of the published data sets, before the validation split.
IMAGES = {
    "cifar10": 50_000,
    "cifar20": 50_000,
    "cifar100": 50_000,
    "stl10": 105_000,
    "imagenet": 1_281_167,
    "image_folder": 10_000,
}
IMAGENET_50_IMAGES = 64_274
SUSTAINED = 60e12  # operations a second, of an A100 in 16 bits; docs/scaling.md


@contextmanager
def without_weights() -> Iterator[None]:
    """Build networks without memory or computation."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        yield


def tiny(image: ImageOptions) -> ImageOptions:
    return image.model_copy(update={"size": min(image.size, 32), "resize": None})


def stored_width(options: RepresentationOptions, image: ImageOptions) -> int:
    """Return how many numbers the store keeps per image."""
    if options.reduce.pca or options.reduce.projection:
        return options.reduce.pca or options.reduce.projection or 0
    if isinstance(options, OpenClipOptions):
        return 512 if options.model == "ViT-B-16" else 128
    return live_width(options, image)


def live_width(options: RepresentationOptions, image: ImageOptions) -> int:
    blank = torch.zeros((1, image.channels, image.size, image.size))
    return int(options.build(image)(blank).shape[1])


def reference(width: int) -> Reference:
    """Return a sample of stored targets, as the store would give it."""
    rows = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
    return Reference(rows, torch.arange(64), rows.mean(0), rows.std(0))


def widths(experiment: Experiment, image: ImageOptions) -> dict[str, int]:
    stored = {name: stored_width(o, image) for name, o in experiment.targets().items()}
    return stored | {name: live_width(o, image) for name, o in experiment.live().items()}


def test_the_configs_of_our_own_try_geometries_and_the_published_ones_none() -> None:
    tried = {
        name: {
            protocol
            for protocol, options in experiment.evaluate.items()
            if getattr(options, "whiten", (None,)) == (None, 0.5, 1)
        }
        for name, experiment in EXPERIMENTS.items()
    }
    ours = {
        "cifar10_clip": {"knn_whitened", "retrieval"},
        "cifar10_dependence": {"knn_whitened", "retrieval"},
        "cifar10_self_supervised": {"knn_whitened", "retrieval"},
        "folder_clip": {"retrieval"},
        "folder_self_supervised": {"retrieval"},
    }
    assert {name: protocols for name, protocols in tried.items() if protocols} == ours
    for name in EXPERIMENTS.keys() - ours.keys():
        for options in EXPERIMENTS[name].evaluate.values():
            assert getattr(options, "whiten", (None,)) == (None,)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_networks_fit_their_images(name: str) -> None:
    experiment = EXPERIMENTS[name]
    image, student = experiment.dataset.image, experiment.student
    with without_weights():
        encoder = build_encoder(student, channels=image.channels, size=image.size, seed=0)
        h, z = encoder(torch.zeros((2, image.channels, image.size, image.size)))
    assert h.shape == (2, encoder.h_width)
    assert z.shape == (2, student.projector[-1] if student.projector else encoder.h_width)


@pytest.mark.parametrize("name", TRAINED)
def test_schedules_reach_their_rates(name: str) -> None:
    train = EXPERIMENTS[name].train
    assert train is not None
    schedule, steps = train.schedule, 7 * train.epochs
    rates = [
        learning_rate(
            step, total_steps=steps, steps_per_epoch=7, base_lr=train.lr, options=schedule
        )
        for step in range(steps)
    ]
    warmup = round(7 * schedule.warmup_epochs)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert max(rates) == rates[warmup] == train.lr
    assert rates[-1] == pytest.approx(schedule.final_lr)
    assert min(rates) >= min(schedule.final_lr, train.lr / (warmup + 1))


@pytest.mark.parametrize("name", TRAINED)
def test_stored_features_are_those_that_the_objective_names(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert experiment.objective is not None
    named = set(representations_of(experiment.objective))
    assert named == experiment.targets().keys() | experiment.live().keys()
    controls = {"hog"} if name == "robust_digits" else set()
    assert experiment.features.keys() == experiment.targets().keys() | controls


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in WIDE else pytest.param(n) for n in TRAINED],
)
@pytest.mark.filterwarnings("ignore")  # Lightning advises on loaders and loggers
def test_one_training_step_at_full_width(name: str) -> None:
    experiment = EXPERIMENTS[name]
    assert experiment.train is not None
    assert experiment.objective is not None
    image = tiny(experiment.dataset.image)
    encoder = build_encoder(
        experiment.student, channels=image.channels, size=image.size, seed=experiment.seed
    )
    own = widths(experiment, image)
    objective = Objective(
        experiment.objective,
        h_width=encoder.h_width,
        z_width=encoder.z_width,
        representation_widths=own,
        references={n: reference(own[n]) for n in experiment.targets()},
    )
    # A CPU does not support the 16 bits of a recipe for GPUs.
    options = experiment.train.model_copy(update={"precision": "32"})
    module = StudentModule(
        encoder,
        objective,
        live={n: o.build(image) for n, o in experiment.live().items()},
        image=image,
        options=options,
        steps_per_epoch=1,
        seed=experiment.seed,
    )
    random = torch.Generator().manual_seed(0)
    shape = (4, image.channels, image.size, image.size)
    batch = Batch(
        images=torch.randint(0, 256, shape, generator=random, dtype=torch.uint8),
        views=[],
        labels=torch.zeros(4, dtype=torch.int64),
        index=torch.arange(4),
        targets={n: torch.randn((4, own[n]), generator=random) for n in experiment.targets()},
    )
    kernel = next(p for p in encoder.backbone.parameters() if p.ndim == 4)
    before = kernel.detach().clone()
    trainer = Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader([batch], batch_size=None))  # type: ignore[arg-type]
    assert torch.isfinite(kernel).all()
    assert not torch.equal(kernel, before)


def gpu_hours(experiment: Experiment) -> float:
    """Return the GPU hours of all epochs: their operations over what a GPU sustains."""
    assert experiment.train is not None
    assert experiment.objective is not None
    image, source = experiment.dataset.image, experiment.dataset.source
    with without_weights():
        encoder = build_encoder(
            experiment.student, channels=image.channels, size=image.size, seed=0
        )
        views = 1 if all(len(t.views(0)) == 1 for t in experiment.objective.values()) else 2
        with FlopCounterMode(display=False) as counter:
            encoder(torch.zeros((2, image.channels, image.size, image.size)))
    images = IMAGES[source.kind]
    if getattr(source, "classes", None):
        images = IMAGENET_50_IMAGES
    share = 1 - experiment.dataset.split.validation
    operations = 3 * counter.get_total_flops() / 2 * views * images * share
    epochs = experiment.train.epochs
    return float(epochs * operations / SUSTAINED / 3600)


@pytest.mark.parametrize("name", TRAINED)
def test_the_cost_in_the_file_is_that_of_the_arithmetic(name: str) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text()
    match = re.search(r"^# Cost: (.+)$", text, re.MULTILINE)
    assert match, "a line `# Cost: ...` tells readers of `mvmr use --list`"
    estimate = re.match(r"from ([\d.]+) GPU (hours|minutes).* \(estimate\)", match[1])
    if estimate is None:
        assert re.fullmatch(r"\d+ minutes? on two cores \((measured|estimate)\)", match[1])
        return
    hours = float(estimate[1]) / (60 if estimate[2] == "minutes" else 1)
    assert hours == pytest.approx(gpu_hours(EXPERIMENTS[name]), rel=0.1)


def test_published_values_of_the_table() -> None:
    """Batch, accumulation, epochs, rate, policy and stem, as released."""
    table = {
        "stl10_self_supervised": (256, 1, 1000, 1e-4, "custom", "3x3"),
        "cifar20_self_supervised": (512, 1, 1000, 2e-4, "cifar20", "3x3"),
        "imagenet_self_supervised": (256, 8, 1000, 1e-4, "custom", None),
        "stl10_clip": (256, 1, 200, 1e-4, "custom", None),
        "imagenet_clip": (256, 1, 200, 1e-4, "custom", None),
        "cifar100_clip": (256, 1, 200, 1e-4, "cifar", "3x3"),
    }
    for name, values in table.items():
        experiment = EXPERIMENTS[name]
        train = experiment.train
        assert train is not None
        found = (train.batch_size, train.accumulate, train.epochs, train.lr)
        assert (*found, train.augmentation.policy, experiment.student.stem) == values
        assert experiment.student.projector == (8192, 8192, 8192)
        assert experiment.student.architecture == "resnet50"
        assert train.optimizer.name == "adam"
        assert train.optimizer.weight_decay == 1e-6


def strings_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else ():
        yield from strings_in(inner)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_config_needs_no_file_of_the_repository(name: str) -> None:
    named = {*strings_in(EXPERIMENTS[name].model_dump(mode="json"))} - {""}
    assert {text for text in named if "/" in text and (CONFIGS.parent / text).exists()} == set()


def test_a_shipped_list_of_classes_is_found_from_python_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        (tmp_path / "imagenet" / split / "n00000000").mkdir(parents=True)
    with pytest.raises(DataError, match="no class folder"):
        mvmr.run_experiment(
            "imagenet_subset_self_supervised",
            out="runs/subset",
            override_with=["dataset.source.root=imagenet"],
        )
