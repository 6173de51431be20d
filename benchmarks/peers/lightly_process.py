"""The peer's part: one distillation by lightly-train, in an environment that has it and not us.

    PYTHON lightly_process.py SETTINGS.json

`SETTINGS.json` names images, both networks of timm with their files, and the arguments of
`lightly_train.pretrain`. The student is written as safetensors by timm's names, and what is to be
known of the training as JSON. Nothing is downloaded.

Both networks come with channels last, which is faster on a CPU. They are wrapped, since
lightly-train 0.18 takes the 320 channels before an EfficientNet's last convolution for its 1,280
features. Its `distillationv1` builds teachers of the DINO families alone, by a function that is
replaced here.
"""

import json
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightly_train
import timm
import torch
from lightly_train._methods.distillation import distillation as distillation_v1
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

EXPORTED = "exported_models/exported_last.pt"
PACKAGES = ("lightly-train", "torch", "timm", "pytorch-lightning")


def main() -> None:
    """Distil as the settings say."""
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    student, teacher = Network(**settings["student"]), Teacher(**settings["teacher"])
    began = time.perf_counter()
    distil(student, teacher, settings)
    seconds = time.perf_counter() - began
    if student.passes != settings["steps"]:
        raise SystemExit(f"{settings['steps']} steps were wanted, and {student.passes} were taken.")
    state = torch.load(Path(settings["out"], EXPORTED), map_location="cpu", weights_only=True)
    save_file({k: v.contiguous() for k, v in state.items()}, settings["trained"])
    versions = {name: version(name) for name in PACKAGES}
    Path(settings["told"]).write_text(
        json.dumps({"seconds": seconds, "versions": versions}), encoding="utf-8"
    )


def distil(student: "Network", teacher: "Teacher", settings: Mapping[str, Any]) -> None:
    """Train the student."""
    options = settings["pretrain"]
    method_args = dict(options.get("method_args", {}))
    if options["method"] == "distillationv1":
        distillation_v1.get_teacher = lambda *_, **__: teacher
    else:
        method_args["teacher"] = teacher
    lightly_train.pretrain(
        **{**options, "method_args": method_args},
        out=settings["out"],
        data=settings["images"],
        model=student,
        epochs=settings["epochs"],
        trainer_args={"max_steps": settings["steps"]},
        num_workers=0,
        accelerator="cpu",
        devices=1,
        seed=settings["seed"],
        overwrite=True,
    )


class Network(nn.Module):
    """A network of timm as lightly-train's custom models are; it counts its passes to be learnt."""

    def __init__(self, model: str, weights: str, size: int | None = None) -> None:
        super().__init__()
        network = timm.create_model(model, num_classes=0)
        own = network.state_dict()
        network.load_state_dict({k: v for k, v in load_file(weights).items() if k in own})
        self.network: Any = network.to(memory_format=torch.channels_last)
        self.size = size
        self.passes = 0

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        """Return the feature map (B, D, h, w) of images, reduced to `size` first if it is given."""
        self.passes += torch.is_grad_enabled()
        if self.size is not None:
            x = interpolate(x, size=self.size, mode="bilinear", antialias=True)
        return {"features": self.network.forward_features(x)}

    def forward_pool(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the mean of a feature map, (B, D, 1, 1)."""
        return {"pooled_features": x["features"].mean(dim=(2, 3), keepdim=True)}

    def feature_dim(self) -> int:
        """Return D."""
        return int(self.network.num_features)

    def get_model(self) -> Any:
        """Return the network itself, which is exported."""
        return self.network


class Teacher(Network):
    """A frozen network, whose batch norms keep their statistics."""

    def __init__(self, model: str, weights: str) -> None:
        super().__init__(model, weights)
        self.embed_dim = self.feature_dim()
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay as it is."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features, (B, D)."""
        return self.forward_pool(self.forward_features(x))["pooled_features"].flatten(1)


if __name__ == "__main__":
    main()
