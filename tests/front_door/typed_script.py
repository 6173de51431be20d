"""The examples as a typed script, for `mypy --strict` with an installed wheel; it is not run."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import mvmr


def prepare(image: Image.Image) -> Tensor:
    """Return pixels in [0, 1]."""
    return torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1) / 255


def close(original: Tensor, augmented: Tensor) -> Tensor:
    """Return one number an image."""
    return (original - augmented).abs().mean(1)


def examples() -> None:
    """Use each public name once."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    teacher = mvmr.teacher(network, prepare, name="small")
    run: mvmr.Run = mvmr.distil("photos/", teacher=teacher, student=network, out="runs/a")
    run = mvmr.distil("photos/", teacher="open_clip:ViT-B-16/laion400m_e32", out="runs/b")
    run = mvmr.pretrain("photos/", student="resnet18", out="runs/c", train={"epochs": 2})
    run = mvmr.run_experiment(mvmr.configs()["digits"], out="runs/digits")
    value: float = run.scores["knn"].value
    rows = run.embed("other/").rows[: int(value)]
    print(run.report(), run.export("onnx"), rows.shape, mvmr.open_run("runs/c").path)  # noqa: T201
    data: mvmr.Dataset = mvmr.pack("photos/", "data/photos", image=mvmr.Image(96))
    data = mvmr.extract({"clip": teacher, "scattering": {"J": 2}}, data)
    data = mvmr.open_dataset("data/photos", features=["clip"])
    sample: mvmr.LabelledImage = next(iter(data["train"]))
    batch = next(iter(data.loader("train", batch_size=256, seed=0)))
    print(sample.image, batch["targets"]["clip"])  # noqa: T201
    store = mvmr.FeatureStore("data/photos")
    store.put("mine", {"train": store["clip"]["train"][10:20]}, data, made_from="clip")
    scattering = mvmr.representation("scattering", mvmr.Image(32), J=2)
    x = np.zeros((8, 4), np.float32)
    dependence: float = mvmr.distance_correlation(x, x)
    loss: Tensor = mvmr.distance_correlation(batch["images"].flatten(1), batch["images"].flatten(1))
    objective = mvmr.Objective({"invariance": {"on": "h"}})
    total: Tensor = objective(h=(loss, loss)).total
    probe: mvmr.Probe = mvmr.linear_probe((x, x[:, 0]), (x, x[:, 0]), (x, x[:, 0]))
    print(probe.accuracy, probe.interval, dependence, total, scattering)  # noqa: T201
    module, preprocessing = mvmr.load_encoder("best.pt", backbone=network)
    print(module(preprocessing("photo.jpg")[None]))  # noqa: T201
    mvmr.register_term("close", close)
    mvmr.register_student("tiny", lambda: nn.Conv2d(3, 8, 3))
