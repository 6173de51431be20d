"""Teachers against their own libraries, applied by hand to the same Pillow images."""

import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.base.digests import digest, state_digest
from pipeline.base.errors import ConfigError, WeightsError, WeightsMissingError
from pipeline.base.timm_catalogue import other_activation
from pipeline.images.decoding import decode, opened
from pipeline.images.original_view import ImageOptions
from pipeline.representations.row_check import checked_vectors
from pipeline.representations.teachers.exported import ExportedOptions
from pipeline.representations.teachers.frozen import FrozenTeacher, LibraryPreparation
from pipeline.representations.teachers.open_clip import OpenClipOptions, text_embeddings
from pipeline.representations.teachers.timm import TimmOptions

DATA = Path(__file__).parents[3] / "shared/data"
REAL = DATA / "teacher"
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
STUDENT = ImageOptions(size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
NAME = "tiny-vit-for-tests"
ARCHITECTURE = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def pictures() -> list[Image.Image]:
    """RGB and grey, square and not, smaller and larger than any teacher's input."""
    random = np.random.default_rng(0)
    shapes = [(32, 32, 3), (64, 64, 3), (50, 91, 3), (120, 33, 3), (40, 40), (28, 70)]
    return [Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


def embed(teacher: FrozenTeacher) -> Tensor:
    embedding: Tensor = teacher(torch.stack([teacher.preparation(i) for i in pictures()]))
    return embedding


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> OpenClipOptions:
    """Save a small CLIP with random weights to a file."""
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    config = folder / f"{NAME}.json"
    config.write_text(json.dumps(ARCHITECTURE))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    model = open_clip.create_model(NAME)
    torch.save(model.state_dict(), folder / "weights.pt")
    return OpenClipOptions(model=NAME, config=config, pretrained=str(folder / "weights.pt"))


@pytest.fixture(scope="module")
def clip_teacher(clip: OpenClipOptions) -> FrozenTeacher:
    return clip.build(STUDENT)


def by_hand(options: OpenClipOptions, images: list[Image.Image]) -> Tensor:
    import open_clip

    model, _, prepare = open_clip.create_model_and_transforms(
        options.model, pretrained=options.pretrained
    )
    with torch.no_grad():
        rows = [model.eval().encode_image(prepare(image)[None]) for image in images]
    return torch.cat(rows)


def test_an_open_clip_teacher_equals_the_library_applied_by_hand(
    clip: OpenClipOptions, clip_teacher: FrozenTeacher
) -> None:
    ours, theirs = embed(clip_teacher), by_hand(clip, pictures())
    assert ours.shape == (6, 24)
    assert ours.dtype == torch.float32
    assert F.cosine_similarity(ours, theirs).min() >= 0.99999
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)  # not normalised either
    assert not torch.allclose(ours.norm(dim=1), torch.ones(6), atol=0.05)


def photographs(count: int) -> tuple[list[str], list[Image.Image]]:
    """Return the classes and images of the first files of the real data set."""
    with tarfile.open(DATA / "cifar10-jpeg.tar.xz", "r|xz") as archive:
        files = (member for member in archive if member.name.endswith(".jpg"))
        taken = [
            (file.name.split("/")[-2], file_object.read())
            for file in islice(files, count)
            if (file_object := archive.extractfile(file)) is not None
        ]
    return [name for name, _ in taken], [decode(data) for _, data in taken]


@pytest.mark.skipif(not REAL.is_dir(), reason="the trained teacher in shared/data is missing")
def test_the_real_teacher_equals_the_library_and_knows_its_classes() -> None:
    options = OpenClipOptions(
        model="tiny-clip-rn64",
        config=REAL / "tiny-clip-rn64.json",
        pretrained=str(REAL / "tiny-clip-rn64-cifar10.pt"),
    )
    teacher = options.build(STUDENT)
    classes, images = photographs(40)
    embeddings = teacher(torch.stack([teacher.preparation(image) for image in images]))
    assert F.cosine_similarity(embeddings, by_hand(options, images)).min() >= 0.99999
    assert F.cosine_similarity(embed(teacher), by_hand(options, pictures())).min() >= 0.99999
    words = text_embeddings(options, [f"a photo of a {name}." for name in CIFAR10])
    assert words.shape == (10, 128)
    found = F.cosine_similarity(embeddings[:, None], words[None], dim=2).argmax(dim=1)
    right = sum(CIFAR10[i] == name for i, name in zip(found.tolist(), classes, strict=True))
    assert right >= 28


def test_text_embeddings_equal_the_library_and_do_not_depend_on_the_batch(
    clip: OpenClipOptions,
) -> None:
    import open_clip

    prompts = [f"a photo of {i} birds" for i in range(300)]
    model = open_clip.create_model(NAME, pretrained=clip.pretrained).eval()
    with torch.no_grad():
        theirs = model.encode_text(open_clip.get_tokenizer(NAME)(prompts[290:]))
    torch.testing.assert_close(text_embeddings(clip, prompts)[290:], theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["test_vit.r160_in1k", "test_resnet.r160_in1k"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_timm_teacher_equals_the_library_applied_by_hand(
    model: str, suffix: str, tmp_path: Path
) -> None:
    import timm
    from safetensors.torch import save_file
    from timm.data import create_transform, resolve_model_data_config

    torch.manual_seed(0)
    network = timm.create_model(model)  # with its classifier, as published files have it
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    teacher = TimmOptions(model=model, weights=path).build(STUDENT)
    prepare = create_transform(**resolve_model_data_config(network), is_training=False)
    images = torch.stack([prepare(image.convert("RGB")) for image in pictures()])
    network.eval()
    with torch.no_grad():
        theirs = network.forward_head(network.forward_features(images), pre_logits=True)
    assert F.cosine_similarity(embed(teacher), theirs).min() >= 0.99999


def test_weights_of_another_network_are_told_in_one_sentence(
    tmp_path: Path, clip: OpenClipOptions
) -> None:
    import timm

    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    with pytest.raises(WeightsError, match=r"another network: \d+ tensors missing \(.*") as caught:
        TimmOptions(model="test_vit", weights=path).build(STUDENT)
    assert "unexpected" in str(caught.value)
    assert len(str(caught.value)) < 300
    state = torch.load(str(clip.pretrained), weights_only=True)
    state["visual.proj"] = state["visual.proj"][:, :3]
    torch.save(state, tmp_path / "clip.pt")
    narrow = clip.model_copy(update={"pretrained": str(tmp_path / "clip.pt")})
    with pytest.raises(WeightsError, match=r"1 tensor of another shape \(visual\.proj\)"):
        narrow.build(STUDENT)


def test_a_file_given_as_pretrained_is_told_its_key() -> None:
    with pytest.raises(ValidationError, match=r"weights: FILE\.pt"):
        TimmOptions.model_validate({"model": "test_vit", "pretrained": "FILE.pt"})


def test_weights_trained_with_another_activation_are_refused_by_the_name_of_the_right_network(
    tmp_path: Path,
) -> None:
    import timm

    names = [name for name in timm.list_pretrained("*clip*") if "quickgelu" not in name]
    quick = {n for n in names if "QuickGELU" in str(timm.get_pretrained_cfg(n).notes)}
    assert len(quick) >= 17
    assert {name for name in names if other_activation(name)} == quick
    for name in quick:
        right = name.replace("_clip_", "_clip_quickgelu_")
        assert right in timm.list_pretrained(right)
        assert other_activation(right) is None
        for given in ({"pretrained": True}, {"weights": tmp_path / "weights.safetensors"}):
            with pytest.raises(ConfigError, match=f"QuickGELU.*use '{re.escape(right)}'"):
                TimmOptions.model_validate({"model": name, **given}).build(STUDENT)


def test_what_a_folder_says_of_the_activation_of_its_weights_counts(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    about = {"notes": ["natively QuickGELU"], "num_classes": 0, "input_size": [3, 160, 160]}
    config = {"architecture": "test_vit", "num_classes": 0, "pretrained_cfg": about}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(
        timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "model.safetensors"
    )
    options = TimmOptions(model=f"local-dir:{tmp_path}", pretrained=True)
    with pytest.raises(ConfigError, match="trained with QuickGELU"):
        options.build(STUDENT)
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"pretrained_cfg": about | {"notes": []}})
    )
    assert options.build(STUDENT)(torch.zeros(1, 3, 160, 160)).shape == (1, 64)


class _Pool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.last = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.norm(x).mean(dim=(2, 3)))
        return y


def export(path: Path, network: nn.Module, *, dynamic: bool = True) -> Path:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    example = torch.rand(4, 3, 16, 16)
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=shapes), path)
    return path


def exported_options(program: Path, **more: Any) -> ExportedOptions:
    settings = {"input_size": 16, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "trust": True}
    return ExportedOptions.model_validate({"program": program} | settings | more)


def test_an_exported_teacher_equals_its_network_applied_by_hand(tmp_path: Path) -> None:
    from torchvision.transforms import v2

    network = _Pool().eval()
    teacher = exported_options(export(tmp_path / "net.pt2", network), resize=20).build(STUDENT)
    prepare = v2.Compose(
        [
            v2.Resize(20, v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(16),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
        ]
    )
    theirs = network(torch.stack([prepare(image.convert("RGB")) for image in pictures()]))
    torch.testing.assert_close(embed(teacher), theirs.detach())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


class _Ramp(nn.Module):
    """Creates a tensor of its own, which an exported program puts on a fixed device."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        ramp = torch.arange(3, device=images.device)
        return images.mean(dim=(2, 3)) * self.scale + ramp


def test_an_exported_teacher_follows_its_images_to_another_device(tmp_path: Path) -> None:
    teacher = exported_options(export(tmp_path / "net.pt2", _Ramp().eval())).build(STUDENT)
    images = torch.ones(2, 3, 16, 16)
    assert teacher(images).tolist() == [[1, 2, 3], [1, 2, 3]]
    assert teacher.network(images.to("meta")).device.type == "meta"


def test_an_exported_program_is_not_even_opened_without_trust(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trust: true"):
        exported_options(tmp_path / "does not exist", trust=False).build(STUDENT)


def test_an_exported_program_that_mixes_images_or_fixes_the_batch_is_refused(
    tmp_path: Path,
) -> None:
    training = export(tmp_path / "training.pt2", _Pool().train())
    with pytest.raises(WeightsError, match="evaluation mode"):
        checked_vectors(exported_options(training).build(STUDENT), "the program")
    static = export(tmp_path / "static.pt2", _Pool().eval(), dynamic=False)
    with pytest.raises(WeightsError, match="dynamic first dimension"):
        checked_vectors(exported_options(static).build(STUDENT), "the program")


def test_a_teacher_stays_frozen_and_in_evaluation_mode(clip_teacher: FrozenTeacher) -> None:
    before = state_digest(clip_teacher)
    student = nn.ModuleDict({"teacher": clip_teacher}).train()
    assert student.training
    assert not any(module.training for module in clip_teacher.modules())
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    assert not clip_teacher(images).requires_grad
    assert not any(parameter.requires_grad for parameter in clip_teacher.parameters())
    assert state_digest(clip_teacher) == before


def test_a_teachers_vectors_may_enter_a_loss(clip_teacher: FrozenTeacher) -> None:
    target = clip_teacher(torch.rand(2, 3, 32, 32))
    z = torch.rand(2, 24, requires_grad=True)
    (z * target).sum().backward()  # an inference-mode tensor may not be saved for backward
    assert z.grad is not None
    torch.testing.assert_close(z.grad, target)


def test_only_the_image_tower_is_kept(clip_teacher: FrozenTeacher) -> None:
    import open_clip

    tower = open_clip.create_model(NAME).visual
    assert sum(p.numel() for p in clip_teacher.parameters()) == sum(
        p.numel() for p in tower.parameters()
    )


def test_rows_do_not_depend_on_each_other(clip_teacher: FrozenTeacher) -> None:
    images = torch.rand(5, 3, 32, 32)
    alone = torch.cat([clip_teacher(image[None]) for image in images])
    torch.testing.assert_close(clip_teacher(images), alone, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_close_is_returned_as_float32_and_is_another_identity(
    clip: OpenClipOptions, clip_teacher: FrozenTeacher
) -> None:
    half = clip.model_copy(update={"precision": "bfloat16"}).build(STUDENT)
    exact, rough = embed(clip_teacher), embed(half)
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert F.cosine_similarity(exact, rough).min() > 0.999
    assert half.identity() != clip_teacher.identity()


def otherwise(settings: dict[str, Any]) -> Any:
    """Return a transform that ends in another way than libraries do."""
    from torchvision.transforms import v2

    to_float = v2.ToDtype(torch.float32, scale=True)
    return v2.Compose([v2.CenterCrop(settings["size"]), v2.ToImage(), to_float])


def test_eight_bits_and_a_batch_give_the_bits_of_the_librarys_own_transform(
    clip_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    import timm

    weights = tmp_path / "resnet.pt"
    torch.save(timm.create_model("test_resnet.r160_in1k").state_dict(), weights)
    program = export(tmp_path / "program.pt2", _Pool().eval())
    hows: list[Any] = [
        clip_teacher.preparation,
        TimmOptions(model="test_resnet.r160_in1k", weights=weights).build(STUDENT).preparation,
        exported_options(program).build(STUDENT).preparation,
        LibraryPreparation(otherwise, {"size": 16}),
    ]
    for how in hows:
        for image in (*pictures(), pictures()[0].convert("L")):
            whole, pixels = how(image), how.pixels(opened(image))
            assert (pixels.dtype == torch.uint8) == (how is not hows[-1])
            assert torch.equal(how.finish(pixels[None])[0], whole)


def test_convolutions_on_a_cpu_give_the_same_in_the_faster_layout(tmp_path: Path) -> None:
    import timm

    network = timm.create_model("test_resnet.r160_in1k", num_classes=0).eval()
    torch.save(network.state_dict(), tmp_path / "resnet.pt")
    teacher = TimmOptions(model="test_resnet.r160_in1k", weights=tmp_path / "resnet.pt").build(
        STUDENT
    )
    images = torch.stack([teacher.preparation(image) for image in pictures()])
    with torch.inference_mode():
        found, expected = teacher(images), network(images)
        again = teacher(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found, again)
    convolution = next(m for m in teacher.modules() if isinstance(m, nn.Conv2d))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert teacher(images.clone().requires_grad_()).sum().isfinite()  # outside inference mode


def test_equal_preprocessing_gives_equal_preparations_and_survives_pickling(
    clip: OpenClipOptions, clip_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    again = clip.build(STUDENT).preparation
    assert again == clip_teacher.preparation
    assert len({again, clip_teacher.preparation}) == 1
    clip_teacher.preparation(pictures()[0])  # makes the transform, which cannot be pickled
    copy = pickle.loads(pickle.dumps(clip_teacher.preparation))  # noqa: S301 (ours)
    assert copy == again
    torch.testing.assert_close(copy(pictures()[2]), again(pictures()[2]), rtol=0, atol=0)
    program = export(tmp_path / "net.pt2", _Pool().eval())
    first = exported_options(program).build(STUDENT).preparation
    assert first == exported_options(program).build(STUDENT).preparation
    assert first != exported_options(program, resize=18).build(STUDENT).preparation
    assert first != again


def test_an_identity_follows_the_weights_and_not_their_file(
    clip: OpenClipOptions, clip_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    assert clip.pretrained is not None
    state = torch.load(clip.pretrained, weights_only=True)
    moved = tmp_path / "elsewhere.safetensors"
    save_file(state, moved)
    same = clip.model_copy(update={"pretrained": str(moved)}).build(STUDENT)
    assert digest(same.identity()) == digest(clip_teacher.identity())
    assert str(tmp_path) not in json.dumps(same.identity())
    state["visual.proj"][0, 0] += 1e-3
    save_file(state, moved)
    other = clip.model_copy(update={"pretrained": str(moved)}).build(STUDENT)
    assert other.identity()["weights"] != same.identity()["weights"]
    state["token_embedding.weight"][0, 0] += 1  # the text tower does not count
    save_file(state, moved)
    text = clip.model_copy(update={"pretrained": str(moved)}).build(STUDENT)
    assert text.identity() == other.identity()


def test_an_identity_names_what_the_vectors_depend_on(clip_teacher: FrozenTeacher) -> None:
    identity = clip_teacher.identity()
    assert identity["kind"] == "open_clip"
    assert identity["model"] == NAME
    assert identity["implementation"] == 1
    assert set(identity["libraries"]) == {"open_clip_torch", "torchvision", "pillow"}  # type: ignore[arg-type]
    preprocessing = identity["preprocessing"]
    assert isinstance(preprocessing, dict)
    assert preprocessing["interpolation"] == "bicubic"
    assert preprocessing["size"] in (32, [32, 32])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pretrained": "/nowhere/weights.pt"}, WeightsMissingError, "no file '/nowhere"),
        ({"model": "tiny-vit-for-test"}, ConfigError, "must be 'tiny-vit-for-test.json'"),
        ({"config": Path("absent.json")}, WeightsMissingError, "no file 'absent.json'"),
    ],
)
def test_wrong_open_clip_options_are_explained(
    clip: OpenClipOptions, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        clip.model_copy(update=options).build(STUDENT)


def test_unknown_names_and_tags_list_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'ViT-B-16'"):
        OpenClipOptions(model="ViT-B-1", pretrained="openai").build(STUDENT)
    with pytest.raises(ConfigError, match="laion400m_e32"):
        OpenClipOptions(model="ViT-B-16", pretrained="laion400m_e3").build(STUDENT)
    with pytest.raises(ConfigError, match="QuickGELU"):
        OpenClipOptions(model="ViT-B-16", pretrained="openai").build(STUDENT)
    with pytest.raises(ConfigError, match="'test_vit'"):
        TimmOptions(model="test_vitt", pretrained=True).build(STUDENT)
    with pytest.raises(ConfigError, match="r160_in1k"):
        TimmOptions(model="test_vit.r160", pretrained=True).build(STUDENT)


@pytest.mark.parametrize(
    "options", [{"model": "ViT-B-16"}, {"model": "hf-hub:a/b", "pretrained": "c"}]
)
def test_open_clip_options_need_one_source_of_weights(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="pretrained"):
        OpenClipOptions.model_validate(options)


class _Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.system, ("touch exploded",))


@pytest.mark.parametrize("kind", ["code", "cut short", "another architecture", "a list"])
def test_weights_that_are_not_the_models_are_refused(
    kind: str, clip: OpenClipOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    if kind == "code":
        torch.save({"state_dict": _Bomb()}, path)
    elif kind == "a list":
        torch.save([1, 2], path)
    else:
        torch.save(nn.Linear(1000, 3).state_dict(), path)
    if kind == "cut short":
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(WeightsError, match=r"weights\.pth"):
        clip.model_copy(update={"pretrained": str(path)}).build(STUDENT)
    with pytest.raises(WeightsError, match=r"weights\.pth"):
        TimmOptions(model="test_vit", weights=path).build(STUDENT)
    assert not (tmp_path / "exploded").exists()


def test_imports_are_cheap_and_without_network_a_sentence_says_what_to_fetch(
    tmp_path: Path,
) -> None:
    script = """
import sys
from pipeline.base.errors import WeightsError
from pipeline.images.original_view import ImageOptions
from pipeline.representations.teachers.open_clip import OpenClipOptions
from pipeline.representations.teachers.timm import TimmOptions
import pipeline.representations.teachers.exported
print(sorted({"open_clip", "timm", "torchvision"} & set(sys.modules)))
image = ImageOptions(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
for options in (
    OpenClipOptions(model="ViT-B-16", pretrained="laion400m_e32"),
    OpenClipOptions(model="hf-hub:someone/some-clip"),
    TimmOptions(model="vit_small_patch14_dinov2.lvd142m", pretrained=True),
):
    try:
        options.build(image)
    except WeightsError as error:
        print(error)
"""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | offline,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    imported, tag, hub, dino = done.stdout.strip().splitlines()
    assert imported == "[]"
    assert "open_clip_model.safetensors" in tag
    assert "vit_base_patch16_clip_224.laion400m_e32" in tag
    assert "set `weights`" in tag
    assert "open_clip_config.json" in hub
    assert "someone/some-clip" in hub
    assert "local-dir:" in hub
    assert "model.safetensors" in dino
    assert "timm/vit_small_patch14_dinov2.lvd142m" in dino
    assert "set `weights`" in dino


def test_a_tags_preprocessing_goes_with_a_local_copy_of_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tiny model has a tag, so the test adds one to the library's table."""
    import open_clip
    from open_clip import pretrained

    name = "tiny-tagged-for-tests"
    config = tmp_path / f"{name}.json"
    config.write_text(json.dumps(ARCHITECTURE))
    tag = {"url": "https://nowhere.invalid/w.pt", "mean": (0.1, 0.2, 0.3), "resize_mode": "squash"}
    monkeypatch.setitem(pretrained._PRETRAINED, name, {"squashed": tag})
    open_clip.add_model_config(config)
    torch.save(open_clip.create_model(name).state_dict(), tmp_path / "w.pt")
    options = OpenClipOptions(
        model=name, config=config, pretrained="squashed", weights=tmp_path / "w.pt"
    )
    preprocessing = options.build(STUDENT).identity()["preprocessing"]
    assert isinstance(preprocessing, dict)
    assert preprocessing["mean"] == [0.1, 0.2, 0.3]
    assert preprocessing["resize_mode"] == "squash"
    assert preprocessing["size"] in (32, [32, 32])
