"""Code that changes under its name or beside its weights is noticed, and never used in silence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from stranger import SIDE, Network, frozen, photos, prepare
from torch import Tensor, nn

import mvmr
from pipeline.base.errors import ConfigError, StaleFeatureError, WeightsError

IMAGE = mvmr.Image(SIDE)
TRAIN: dict[str, Any] = {"epochs": 1, "batch_size": 16, "parallel": {"accelerator": "cpu"}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> mvmr.Dataset:
    root = tmp_path_factory.mktemp("changed")
    return mvmr.pack(photos(root / "photos", each=20), root / "packed", image=IMAGE)


@pytest.fixture(scope="module")
def run(data: mvmr.Dataset) -> mvmr.Run:
    out = Path(str(data.path)).parent / "run"
    return mvmr.pretrain(data, student=Network(), out=out, train=TRAIN, evaluate={})


class Softer(Network):
    """The same tensors, with another activation."""

    def forward(self, images: Tensor) -> Tensor:
        """Return maps (B, width, 3, 3)."""
        maps: Tensor = self.last(nn.functional.gelu(self.norm(self.first(images)))).relu()
        return maps


def finer() -> Network:
    """Return the same tensors, with another stride."""
    network = Network()
    network.last.stride = (1, 1)
    return network


class Network2(Network):
    """The same network by another name."""


@pytest.mark.parametrize("form", ["checkpoint", "safetensors", "released"])
def test_a_network_that_gives_other_embeddings_from_the_same_tensors_is_refused(
    run: mvmr.Run, tmp_path: Path, form: str
) -> None:
    path = (
        run.checkpoint
        if form == "checkpoint"
        else run.export(form, path=tmp_path / ("a.pth" if form == "released" else "a.safetensors"))
    )
    x = torch.ones(1, 3, SIDE, SIDE)
    expected = run.encoder.module(x)
    for same in (Network(), Network2()):
        found = mvmr.load_encoder(path, backbone=same).module(x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for other in (Softer(), finer()):
        with pytest.raises(WeightsError, match="other embeddings than the one they were trained"):
            mvmr.load_encoder(path, backbone=other)
        if form == "checkpoint":
            with pytest.raises(WeightsError, match="other embeddings"):
                mvmr.open_run(run.path, backbone=other)


def centred(image: Image.Image) -> Tensor:
    return prepare(image) - 0.5


@pytest.mark.parametrize("grown", [False, True], ids=["same images", "more images"])
def test_rows_of_another_preparation_are_not_used_for_a_teacher_of_that_name(
    tmp_path: Path, grown: bool
) -> None:
    pictures = photos(tmp_path / "photos", each=8)
    data = mvmr.pack(pictures, tmp_path / "packed", image=IMAGE)
    rows = mvmr.extract({"t": teacher(prepare)}, data)["train"].features("t")
    if grown:
        Image.new("RGB", (SIDE, SIDE)).save(pictures / "red" / "new.png")
        data = mvmr.pack(pictures, tmp_path / "packed", image=IMAGE)
    with pytest.raises(StaleFeatureError, match=r"other vectors under the same name.*force=True"):
        mvmr.extract({"t": teacher(centred)}, data)
    if not grown:
        with pytest.raises(StaleFeatureError, match="other vectors under the same name"):
            mvmr.open_dataset(str(data.path), features={"t": teacher(centred)})
        again = mvmr.extract({"t": teacher(prepare)}, data)["train"].features("t")
        assert torch.equal(again, rows)
    anew = mvmr.extract({"t": teacher(centred)}, data, force=True)["train"].features("t")
    assert not torch.allclose(anew[: len(rows)].float(), rows.float(), atol=1e-2)


def teacher(prepare: Callable[[Image.Image], Tensor]) -> Any:
    return mvmr.teacher(frozen(), prepare, name="with a preparation")


def scaled(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda images: images.mean((2, 3)) * factor


def test_a_representation_that_changed_asks_for_another_version(data: mvmr.Dataset) -> None:
    """The text of the function is the same: what it captured is not."""
    mvmr.register_representation("scaled", scaled(1.0))
    mvmr.extract({"scaled": {}}, data)
    mvmr.register_representation("scaled", scaled(1.0))
    mvmr.extract({"scaled": {}}, data)
    mvmr.register_representation("scaled", scaled(2.0))
    with pytest.raises(StaleFeatureError, match="raise its version"):
        mvmr.extract({"scaled": {}}, data)
    assert mvmr.extract({"scaled": {"version": 2}}, data).store["scaled"].width == 3


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (lambda images: (images.flatten(1), None), ConfigError, "found tuple for 2 images"),
        (lambda images: images, ConfigError, r"found \(2, 3, 20, 20\) for 2 images"),
        (lambda images: torch.ones(len(images), 4), WeightsError, "two unlike pictures the same"),
    ],
    ids=["tuple", "maps", "constant"],
)
def test_a_teacher_that_gives_no_vector_of_its_own_to_an_image_is_refused(
    data: mvmr.Dataset, network: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        mvmr.extract({"bad": mvmr.teacher(network, prepare, name=message)}, data)
    assert "bad" not in data.store


class Scaled(Network):
    """A network with an attribute that neither its layers nor its weights show."""

    def __init__(self, scale: float) -> None:
        torch.manual_seed(0)
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """Return maps of scaled images."""
        return super().forward(images * self.scale)


def powered(power: float) -> Callable[..., Tensor]:
    return lambda original, augmented: (original - augmented).abs().pow(power).mean(1)


def test_a_sweep_over_values_in_one_folder_trains_each_time(
    data: mvmr.Dataset, tmp_path: Path
) -> None:
    def total(student: nn.Module, power: float, score: float) -> tuple[float, float]:
        mvmr.register_term("powered", powered(power))
        mvmr.register_protocol("said", lambda *_: score)
        objective = {"powered": {"on": "h"}, "variance": {"on": "h"}}
        run = mvmr.pretrain(
            data,
            student=student,
            objective=objective,
            train=TRAIN,
            evaluate={"said": {}},
            out=tmp_path / "sweep",
        )
        weights = sum(float(p.detach().sum()) for p in run.encoder.module.parameters())
        return weights, run.scores["said"].value

    first = total(Scaled(1.0), 1.0, 0.5)
    other_loss, other_score = total(Scaled(1.0), 2.0, 0.5), total(Scaled(1.0), 1.0, 0.75)
    other_student = total(Scaled(3.0), 1.0, 0.5)
    assert len({first[0], other_loss[0], other_student[0]}) == 3
    assert other_score == (first[0], 0.75)
    assert total(Scaled(1.0), 1.0, 0.5) == first


def test_rows_of_other_images_are_refused_by_the_store_as_well(tmp_path: Path) -> None:
    pictures = photos(tmp_path / "photos", each=12)
    data = mvmr.extract({"hog": {"cell": 8}}, mvmr.pack(pictures, tmp_path / "p", image=IMAGE))
    rows = {split: [[1.0]] * len(data[split]) for split in data.manifests}
    data.store.put("mine", {s: torch.tensor(r) for s, r in rows.items()}, data, made_from="ones")
    (pictures / "red" / "000.png").unlink()
    (pictures / "red" / "broken.png").write_bytes(b"no image")
    now = mvmr.pack(pictures, tmp_path / "p", on_bad_image="skip")
    for name, remedy in (("hog", r"mvmr\.extract with it again"), ("mine", "put rows of these")):
        with pytest.raises(StaleFeatureError, match=remedy):
            mvmr.FeatureStore(tmp_path / "p")[name]
        with pytest.raises(StaleFeatureError, match=remedy):
            mvmr.open_dataset(tmp_path / "p", features=[name])
    shown = {line.split()[0]: line for line in repr(now).splitlines()}
    total = 0
    for split in now.manifests:
        count = len(now[split])
        total += count
        assert f"{count:,} images, {count:,} with a label" in shown[split]
    assert total == 35
    assert "1 more cannot be read" in repr(now)
    assert {n for s in now.manifests for n in now[s].left_out} == {"red/broken.png"}


def test_a_teacher_may_be_stored_in_another_type(data: mvmr.Dataset) -> None:
    large = mvmr.teacher(lambda x: x.mean((2, 3)) * 1e6, prepare, name="large", dtype="float32")
    assert mvmr.extract({"large": large}, data).store["large"].stored_type == "float32"
