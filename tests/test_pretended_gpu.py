"""All code that runs on a device, run on a pretended GPU: placement, precision, waits.

What a pretended GPU cannot show is listed in `pretended_gpu.py`.
"""

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from every_term import every_term, objective_of, value_of
from PIL import Image
from pretended_gpu import GPU, pretended_gpu, require_pretence
from shades import AUGMENTED, setting
from torch import Tensor, nn
from training_runs import IMAGE, make_data, make_run
from watched import Watched

from pipeline.base.gpu_places import own_gpu
from pipeline.base.progress import Silent
from pipeline.evaluation.feature_batches import EmbeddedViews, ViewBatches
from pipeline.evaluation.image_set import Images
from pipeline.evaluation.knn import KnnOptions
from pipeline.evaluation.linear import LinearOptions
from pipeline.evaluation.online import OnlineOptions
from pipeline.evaluation.protocols import AnyProtocol
from pipeline.evaluation.retrieval import RetrievalOptions
from pipeline.evaluation.robustness import RobustnessOptions
from pipeline.evaluation.semi_supervised import SemiSupervisedOptions
from pipeline.evaluation.subjects import Subject
from pipeline.evaluation.voc07_protocol import MultiLabelOptions
from pipeline.evaluation.zero_shot import ZeroShotOptions
from pipeline.features.extraction import worker
from pipeline.features.extraction.engine import feature_task
from pipeline.features.extraction.task import Span, Task
from pipeline.features.principal_components import fit_pca
from pipeline.features.projection import Projection
from pipeline.features.reduction import Reduction
from pipeline.images.original_view import ImageOptions
from pipeline.images.random_views import POLICIES, AugmentationOptions, build_augmentation
from pipeline.loading.loaders import LoadingOptions, loader_by_size
from pipeline.metrics.neighbours import nearest
from pipeline.models.checkpoint import LAST, load_checkpoint
from pipeline.models.embedding import embed
from pipeline.models.encoder import build_encoder
from pipeline.models.ready_encoder import Preprocessing, ReadyEncoder
from pipeline.models.student import StudentOptions
from pipeline.representations.kinds import KINDS
from pipeline.representations.representation import Representation
from pipeline.representations.teachers.exported import ExportedOptions
from pipeline.representations.teachers.open_clip import OpenClipOptions
from pipeline.representations.teachers.timm import TimmOptions
from pipeline.shards.manifest import read_manifests
from pipeline.training import tuning
from pipeline.training.fit import fit, tune
from pipeline.training.saving import RESUME
from pipeline.training.trial import Wanted

require_pretence()

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PRECISIONS = [None, torch.bfloat16, torch.float16]
PHOTO = ImageOptions(size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
# The most that one training step may make the host wait for the GPU.
STEP_WAITS = 4


@pytest.fixture
def gpu() -> Iterator[GPU]:
    with pretended_gpu() as made:
        yield made


def autocast(precision: torch.dtype | None) -> Any:
    return torch.autocast("cuda", dtype=precision, enabled=precision is not None)


def same(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.device.type == "cuda"
    expected, found = expected.detach(), found.detach().cpu()
    scale = expected.abs().max().item() or 1.0
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)


# The objective


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", every_term())
def test_a_term_and_its_gradients_are_the_cpus_and_nothing_waits(
    gpu: GPU, name: str, precision: torch.dtype | None
) -> None:
    random = torch.Generator().manual_seed(0)
    rows = {"h": 7, "z": 9, "r": 5}
    given = {name: torch.randn(12, width, generator=random) for name, width in rows.items()}

    def learn(device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
        torch.manual_seed(1)
        objective = objective_of(name, given).to(device)
        own = {key: x.clone().to(device).detach() for key, x in given.items()}
        h, z = (own[layer].requires_grad_() for layer in ("h", "z"))
        value_of(objective, own)  # what a term keeps on a device is sent once
        gpu.clear()
        with autocast(precision):
            value = value_of(objective, own)
        torch.autograd.backward(value.total)
        grads = [x.grad.flatten() for x in (h, z, *objective.parameters()) if x.grad is not None]
        return value.terms, torch.cat(grads)

    (expected, expected_gradient), (found, gradient) = learn(CPU), learn(CUDA)
    assert not gpu.waits, gpu.report()
    for term, value in found.items():
        assert value.dtype == torch.float32  # also inside autocast
        same(value, expected[term])
    same(gradient, expected_gradient)


# Views and representations


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_policys_views_are_the_cpus_and_nothing_waits(
    gpu: GPU, policy: Any, channels: int
) -> None:
    grey = (0.5,) * channels
    image = ImageOptions(size=32, channels=channels, mean=grey, std=grey)  # type: ignore[arg-type]
    augment = build_augmentation(AugmentationOptions(policy=policy), image)
    pixels = torch.randint(0, 256, (16, channels, 32, 32), dtype=torch.uint8)
    torch.manual_seed(3)
    expected = augment(pixels)
    there = pixels.to(CUDA)
    for precision in PRECISIONS:
        torch.manual_seed(3)
        gpu.clear()
        with autocast(precision):
            found = augment(there)
        assert not gpu.waits, gpu.report()
        assert found.dtype == torch.float32
        same(found, expected)


# Those that need nothing else: no file, no model, no code of the user's own.
HANDCRAFTED = [
    name
    for name, options in KINDS.items()
    if not any(field.is_required() for field in options.model_fields.values())
]


@pytest.mark.parametrize("kind", HANDCRAFTED)
def test_a_representation_is_the_cpus_also_inside_autocast(gpu: GPU, kind: str) -> None:
    representation = KINDS[kind].model_validate({"kind": kind}).build(PHOTO)
    pixels = (torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5) / 0.25
    require_the_cpus_vectors(gpu, representation, pixels, PRECISIONS)


def require_the_cpus_vectors(
    gpu: GPU, representation: Representation, pixels: Tensor, precisions: Any
) -> None:
    torch.manual_seed(1)
    expected = representation(pixels)
    representation.to(CUDA)
    there = pixels.to(CUDA)
    representation(there)  # what it keeps on a device is sent once
    for precision in precisions:
        torch.manual_seed(1)
        gpu.clear()
        with autocast(precision):
            found = representation(there)
        assert not gpu.waits, gpu.report()
        assert found.dtype == torch.float32
        same(found, expected)


# Teachers


class Ramp(nn.Module):
    """A network that makes one tensor in forward and holds another as a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to vectors (B, 8)."""
        h = self.norm(self.conv(x)).relu().mean((2, 3))
        vectors: Tensor = h * torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])
        return vectors + torch.arange(8, device=x.device)


def timm_teacher(folder: Path, model: str) -> Representation:
    import timm

    torch.manual_seed(0)
    torch.save(timm.create_model(model, num_classes=10).state_dict(), folder / "weights.pt")
    return TimmOptions(model=model, weights=folder / "weights.pt").build(PHOTO)


CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def clip_options(folder: Path) -> OpenClipOptions:
    import open_clip

    config = folder / "clip-on-a-pretended-gpu.json"
    config.write_text(json.dumps(CLIP))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    torch.save(open_clip.create_model(config.stem).state_dict(), folder / "clip.pt")
    return OpenClipOptions(model=config.stem, config=config, pretrained=str(folder / "clip.pt"))


def clip_teacher(folder: Path) -> Representation:
    return clip_options(folder).build(PHOTO)


def exported_teacher(folder: Path) -> Representation:
    batch = torch.export.Dim("batch", min=1, max=512)
    torch.manual_seed(0)
    program = torch.export.export(
        Ramp().eval(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, folder / "program.pt2")
    options = {"input_size": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3, "trust": True}
    return ExportedOptions.model_validate({"program": folder / "program.pt2", **options}).build(
        PHOTO
    )


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda folder: timm_teacher(folder, "resnet10t"), id="timm, convolutions"),
        pytest.param(lambda folder: timm_teacher(folder, "test_vit"), id="timm, transformer"),
        pytest.param(clip_teacher, id="open_clip"),
        pytest.param(exported_teacher, id="exported"),
    ],
)
def test_a_teacher_is_the_cpus_also_inside_autocast(
    tmp_path: Path, make: Callable[[Path], Representation]
) -> None:
    teacher = make(tmp_path)  # as a run does, before anything is on a device
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8))
    prepared = torch.stack([teacher.preparation(photo.rotate(angle)) for angle in (0, 90, 180)])
    with pretended_gpu() as gpu:
        require_the_cpus_vectors(gpu, teacher, prepared, PRECISIONS)


# Training


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    make_data(root)
    return root


class Steps(Watched):
    """Counts the waits of each step: from the end of one to the end of the next."""

    def __init__(self, gpu: GPU) -> None:
        super().__init__()
        self._gpu = gpu
        self.waits: list[tuple[int, str]] = []

    def advance(self, count: int, status: str = "") -> None:
        """Close a step."""
        super().advance(count, status)
        if self.phases[-1].what == "train":
            if count:
                self.waits.append((self._gpu.waits.total(), self._gpu.report()))
            self._gpu.clear()


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    found: dict[str, Tensor] = trained(
        data, tmp_path_factory.mktemp("plain"), Silent(), {"accelerator": "cpu"}
    )
    return found


def trained(data: Path, work: Path, progress: Silent, parallel: Any, **options: Any) -> Any:
    run = make_run(data, **{"epochs": 1, "parallel": parallel, **options})
    fit(run, work=work, progress=progress)
    return load_checkpoint(work / LAST).encoder


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        pytest.param({}, 1e-3, id="float32"),
        pytest.param({"precision": "bf16"}, 0.2, id="bf16"),
        pytest.param({"precision": "16"}, None, id="16, which may skip steps"),
        pytest.param({"channels_last": True}, 1e-3, id="channels_last"),
        pytest.param({"ema": 0.9}, None, id="ema"),
        pytest.param({"accumulate": 2}, None, id="accumulate"),
        pytest.param({"clip_norm": 1.0}, None, id="clip_norm"),
        pytest.param({"augment_both": True}, None, id="augment_both"),
        pytest.param({"loading": {"mode": "streaming", "workers": 0}}, None, id="streaming"),
        pytest.param({"augmentation": {"policy": "cifar"}}, None, id="cifar"),
        pytest.param({"augmentation": {"policy": "randaugment"}}, None, id="randaugment"),
        pytest.param({"optimizer": {"name": "sgd"}}, None, id="sgd"),
        pytest.param({"optimizer": {"name": "lars"}}, None, id="lars"),
        pytest.param({"optimizer": {"name": "adamw", "weight_decay": 0.1}}, None, id="adamw"),
    ],
)
def test_a_run_learns_on_the_gpu_and_its_steps_hardly_wait(
    gpu: GPU,
    data: Path,
    plain: dict[str, Tensor],
    tmp_path: Path,
    options: dict[str, Any],
    tolerance: float | None,
) -> None:
    steps = Steps(gpu)
    found = trained(data, tmp_path, steps, {"accelerator": "gpu"}, **options)
    assert all(type(x) is Tensor for x in found.values())  # saved as tensors of the CPU
    for waits, report in steps.waits[1:]:
        assert waits <= STEP_WAITS, report
    for name, expected in plain.items() if tolerance else ():
        torch.testing.assert_close(found[name], expected, rtol=tolerance, atol=tolerance)


def test_a_run_that_was_stopped_continues_on_the_gpu(gpu: GPU, data: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"ema": 0.9, "saving": {"steps": 1}}
    gpus = {"accelerator": "gpu"}
    whole = trained(data, tmp_path / "whole", Silent(), gpus, **options)

    class Stopping(Watched):
        def advance(self, count: int, status: str = "") -> None:
            super().advance(count, status)
            if self.phases[-1].what == "train" and self.phases[-1].done == 3:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(data, tmp_path / "parts", Stopping(), gpus, **options)
    assert (tmp_path / "parts" / RESUME).exists()
    parts = trained(data, tmp_path / "parts", Silent(), gpus, **options)
    for name, expected in whole.items():
        assert torch.equal(parts[name], expected), name


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "RATE_STEPS", 25)
    monkeypatch.setattr(tuning, "TRIAL_STEPS", 1)


@pytest.mark.usefixtures("few_steps")
def test_rate_and_batch_size_are_found_on_the_gpu(gpu: GPU, data: Path) -> None:
    run = make_run(data, epochs=1, parallel={"accelerator": "gpu"})
    found = tune(run, Wanted(lr=True, batch_size=True), progress=Silent())
    assert found.batch_size == 128  # as on the CPU: the largest power of two in 250 images
    assert 1e-7 < found.lr < 1


# Evaluation

FEW: Any = SemiSupervisedOptions(share=0.5, epochs=1, augmentation={"policy": "custom"})  # type: ignore[arg-type]
PROTOCOLS: dict[str, Any] = {
    "linear": LinearOptions(l2=(1e-2,), max_iterations=5),
    "linear, augmented": LinearOptions.model_validate({**AUGMENTED, "ten_crop": True}),
    "online": OnlineOptions(),
    "knn": KnnOptions(),
    "semi_supervised": FEW,
    "voc07": MultiLabelOptions(l2=(1e-2,), max_iterations=5),
    "voc07, augmented": MultiLabelOptions.model_validate(AUGMENTED),
    "retrieval": RetrievalOptions(),
    "robustness": RobustnessOptions(),
}


def test_every_kind_of_protocol_is_tried() -> None:
    kinds = {kind.model_fields["kind"].default for kind in get_args(get_args(AnyProtocol)[0])}
    assert kinds == {protocol.kind for protocol in PROTOCOLS.values()} | {"zero_shot", "own"}


def scored(protocol: Any, of: Images, work: Path, device: torch.device) -> list[dict[str, Any]]:
    """Return the values of the student, of pixels, and of stored features where they count."""
    work.mkdir()
    numbers = torch.Generator().manual_seed(2)
    probe = {"weight": torch.randn(3, 64, generator=numbers), "bias": torch.zeros(3)}
    other = Subject("other", lambda split: torch.eye(5)[torch.arange(of.count(split)) % 5])
    made, *subjects = setting(of, work, probe=probe, references={"other": other}, device=device)
    controls = protocol.has_controls and protocol.kind != "semi_supervised"  # it fits as linear
    chosen = subjects if controls else subjects[:1]
    return [dict(protocol.score(subject, made).values) for subject in chosen]


def flat(values: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{outer} {inner}": value
        for outer, group in values.items()
        for inner, value in (group.items() if isinstance(group, dict) else [("", group)])
    }


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_scores_on_the_gpu_as_on_the_cpu(
    gpu: GPU, labelled: Images, multi: Images, tmp_path: Path, name: str
) -> None:
    of = multi if name.startswith("voc07") else labelled
    expected = scored(PROTOCOLS[name], of, tmp_path / "cpu", CPU)
    found = scored(PROTOCOLS[name], of, tmp_path / "gpu", CUDA)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert flat(mine) == pytest.approx(flat(theirs), rel=1e-3, nan_ok=True)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(
    ("name", "wanted"),
    [("linear, augmented", Wanted(batch_size=True)), ("semi_supervised", Wanted(lr=True))],
)
def test_what_a_protocol_finds_by_trying_is_found_on_the_gpu(
    gpu: GPU, labelled: Images, tmp_path: Path, name: str, wanted: Wanted
) -> None:
    made, student, _ = setting(labelled, tmp_path, device=CUDA)
    found = PROTOCOLS[name].score(student, replace(made, wanted=wanted)).values["tuned"]
    assert found.get("batch_size", 16) >= 16
    assert 0 < found.get("encoder_lr", 1e-3) <= 1


def test_views_of_a_fit_are_drawn_on_the_gpu(gpu: GPU, labelled: Images) -> None:
    data = labelled.splits["train"]
    seen = []

    def embedded(views: Tensor) -> Tensor:
        seen.append(views.device.type)
        return views.flatten(1)

    augment = build_augmentation(AugmentationOptions(), data.image)
    loader = loader_by_size(data, LoadingOptions(), seed=0)
    views = EmbeddedViews(loader, augment, embedded, CUDA)
    gpu.clear()
    for features, labels in ViewBatches(views, 32, seed=0):
        assert (features.device.type, labels.device.type) == ("cuda", "cpu")
    assert set(seen) == {"cuda"}
    assert not gpu.waits, gpu.report()


def test_the_bank_of_neighbours_is_sent_once(gpu: GPU) -> None:
    bank, queries = (
        torch.randn(n, 8, generator=torch.Generator().manual_seed(n)) for n in (50, 40)
    )
    expected = nearest(queries, bank, k=3, device=CPU)
    gpu.clear()
    found = nearest(queries, bank, k=3, device=CUDA, queries_at_once=8, bank_at_once=20)
    assert torch.equal(found.indices, expected.indices)
    sent = gpu.waits.total() - sum(n for (kind, _), n in gpu.waits.items() if "to the CPU" in kind)
    assert sent <= 1 + 5, gpu.report()  # the bank, and five blocks of queries


def test_zero_shot_reads_prompts_on_the_gpu(labelled: Images, tmp_path: Path) -> None:
    options = clip_options(tmp_path)
    protocol = ZeroShotOptions(teacher="clip")
    numbers = torch.Generator().manual_seed(3)
    rows = {s: torch.randn(labelled.count(s), 24, generator=numbers) for s in labelled.splits}
    teacher = Subject("clip", lambda split: rows[split])

    def on(device: torch.device, folder: str) -> Any:
        (tmp_path / folder).mkdir()
        made, student, _ = setting(
            labelled,
            tmp_path / folder,
            specifications={"clip": options},
            references={"clip": teacher},
            device=device,
        )
        return protocol.score(student, made).values

    expected = on(CPU, "cpu")
    with pretended_gpu() as gpu:
        found = on(CUDA, "gpu")
        read = [line for _, line in gpu.waits if "teachers/open_clip.py" in line]
    assert flat(found) == pytest.approx(flat(expected), rel=1e-3)
    assert read  # the text tower has run there, and its embeddings came back


# Extraction and embedding


@pytest.mark.parametrize("kind", ["hog", "scattering"])
def test_extraction_computes_on_the_workers_gpu(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    manifests = read_manifests(data / "shards")
    cell = {"cell": 4} if kind == "hog" else {}
    options = KINDS[kind].model_validate({"kind": kind, **cell})
    feature = feature_task(kind, options, IMAGE, manifests, tmp_path / "store", tmp_path / "work")
    span = Span(0, 0, 70)
    task = Task(data / "shards" / "train", (span,), IMAGE, (feature,), {}, 70)
    # This thread is no worker of a cluster.
    here = SimpleNamespace(
        name=0,
        address="tcp://127.0.0.1:1",
        state=SimpleNamespace(nthreads=1),
        log_event=lambda *_: None,
    )
    monkeypatch.setattr(worker, "get_worker", lambda: here)
    monkeypatch.setattr(worker, "own_gpu", own_gpu.__wrapped__)  # which is asked once a process
    expected = worker.sample_vectors(task)
    with pretended_gpu() as gpu:
        found = worker.sample_vectors(task)
        came_back = [n for (kind, line), n in gpu.waits.items() if "worker.py" in line]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())
    assert came_back  # from the device


def test_images_are_embedded_on_the_gpu(gpu: GPU, tmp_path: Path) -> None:
    student = StudentOptions(architecture="resnet8")
    backbone = build_encoder(student, channels=3, size=32, seed=0).eval().backbone
    files = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (40, 30), (80 * number, 10, 200)).save(path)
        files.append((path.name, path))

    def rows(device: torch.device) -> Any:
        ready, out = ReadyEncoder(backbone, Preprocessing(PHOTO)), tmp_path / f"{device.type}.npz"
        embed(files, ready, out, device=device, progress=Silent())
        return np.load(out)["embeddings"]

    np.testing.assert_allclose(rows(CUDA), rows(CPU), rtol=1e-4, atol=1e-5)


def test_a_reduction_is_fitted_and_applied_on_the_gpu(gpu: GPU) -> None:
    x = torch.randn(300, 120, generator=torch.Generator().manual_seed(0))
    first = Projection.draw(120, 60, 1)
    fitted = Reduction(first, fit_pca(first.apply(x), 20, seed=0))
    same(fitted.apply(x.to(CUDA)), fitted.apply(x), 1e-4)
    again = fit_pca(first.apply(x.to(CUDA)), 20, seed=0)
    same(again.apply(first.apply(x.to(CUDA))).abs(), fitted.apply(x).abs(), 1e-3)
