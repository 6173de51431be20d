"""Teachers of the timm library: DINOv2 and any of its other networks, without classifier.

The embedding is the input of a classifier: `forward_head(..., pre_logits=True)`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from torch import nn

from pipeline.base.digests import state_digest
from pipeline.base.errors import ConfigError, WeightsError, WeightsMissingError, unknown_name
from pipeline.base.seeds import generators_kept
from pipeline.base.timm_catalogue import other_activation
from pipeline.images.original_view import ImageOptions
from pipeline.representations.teachers.frozen import (
    FrozenTeacher,
    LibraryPreparation,
    LibraryTeacherOptions,
    Precision,
    Setting,
    Transform,
    in_mode,
    library_versions,
    mismatch,
    read_state,
)

HUB, FOLDER = "hf-hub:", "local-dir:"


class TimmOptions(LibraryTeacherOptions):
    """`model` is any name that timm knows, with its tag (`vit_small_patch14_dinov2.lvd142m`).

    Weights are timm's own (`pretrained: true`, fetched once), or those of a local `weights`
    file: .safetensors, or PyTorch's format without code.
    """

    kind: Literal["timm"] = "timm"
    model: str
    pretrained: bool = False
    weights: Annotated[Path, Field(strict=False)] | None = None
    precision: Precision = "float32"

    @field_validator("pretrained", mode="before")
    @classmethod
    def _no_file(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(
                f"{value!r} is neither true nor false; weights in a file are weights: {value}"
            )
        return value

    @model_validator(mode="after")
    def _one_source(self) -> "TimmOptions":
        if self.pretrained == (self.weights is not None):
            raise ValueError("set either pretrained: true or weights: FILE")
        return self

    def build(self, image: ImageOptions) -> FrozenTeacher:
        """Load the network; its images are prepared from the decoded file, not from `image`."""
        del image
        from timm.data import resolve_model_data_config

        network = _load(self)
        preparation, described = self.prepared(
            LibraryPreparation(_transform, resolve_model_data_config(network))
        )
        identity = {
            "kind": self.kind,
            "model": FOLDER if self.model.startswith(FOLDER) else self.model,
            "preprocessing": described,
            "weights": state_digest(network),
            "libraries": library_versions("timm"),
        }
        return FrozenTeacher(network.eval(), preparation, identity, self.precision)


def _transform(settings: dict[str, Setting]) -> Transform:
    from timm.data import create_transform
    from torchvision.transforms import Compose

    # timm converts images when it opens files, before its transform.
    steps = [in_mode("RGB"), *create_transform(**settings, is_training=False).transforms]
    prepare: Transform = Compose(steps)
    return prepare


@generators_kept()
def _load(options: TimmOptions) -> nn.Module:
    import timm

    published = _published(options.model)
    # Without a tag, the name says nothing of the weights in a file.
    if published is not None and (options.pretrained or "." in options.model):
        _require_activation(options.model)
    if options.weights is not None:
        return _load_file(options.model, options.weights, published)
    try:
        network: Any = timm.create_model(options.model, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises its own errors and its transport's
        raise _cannot_fetch(options.model, published, error) from error
    if published is None:  # what a repository or folder says of its weights is read with them
        config = network.pretrained_cfg
        _require_activation(config["architecture"], config.get("notes", ()))
    return network  # type: ignore[no-any-return]


def _require_activation(model: str, notes: object = None) -> None:
    if wrong := other_activation(model, notes):
        raise ConfigError(wrong)


def _published(model: str) -> Any:
    """Return timm's record of the weights of `model`, or None if there is none."""
    import timm

    if model.startswith((HUB, FOLDER)):
        return None
    if not timm.is_model(model):
        raise ConfigError(unknown_name("timm model", model, timm.list_models()))
    try:
        return timm.get_pretrained_cfg(model)
    except RuntimeError:
        tags = timm.list_pretrained(model.partition(".")[0] + ".*")
        raise ConfigError(unknown_name("timm model", model, tags)) from None


def _load_file(model: str, path: Path, published: Any) -> nn.Module:
    """Build `model` with the weights in `path`; timm converts foreign names."""
    import timm

    state = read_state(path)
    classifier = getattr(published, "classifier", None) or ()
    heads = [classifier] if isinstance(classifier, str) else list(classifier)
    backbone = {
        name: tensor
        for name, tensor in timm.models.clean_state_dict(state).items()
        if name.rpartition(".")[0] not in heads
    }
    # timm loads strictly if the overlay has as many classes as the network.
    overlay = {"state_dict": backbone, "num_classes": 0, "custom_load": False, "source": None}
    try:
        network: Any = timm.create_model(
            model, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay
        )
    except Exception as error:  # conversions of foreign formats fail in many ways
        raise WeightsError(
            f"The weights {str(path)!r} do not load into timm's {model!r}: {mismatch(error)}"
        ) from error
    network.pretrained_cfg.pop("state_dict", None)  # it would keep a second copy alive
    return network  # type: ignore[no-any-return]


def _cannot_fetch(model: str, published: Any, error: Exception) -> WeightsMissingError:
    repository = getattr(published, "hf_hub_id", None) or model.removeprefix(HUB)
    file = getattr(published, "hf_hub_filename", None) or "model.safetensors"
    reason = _brief(error).split(". ")[0]
    return WeightsMissingError(
        f"The weights of timm's {model!r} are not on this machine and cannot be fetched "
        f"({reason}): fetch {file} from the Hugging Face repository {repository} where there is a "
        "network, put it anywhere on this machine, and set `weights` to its path instead of "
        "`pretrained: true`."
    )


def _brief(error: Exception) -> str:
    """Return at most three lines of an error, joined into one."""
    lines = str(error).splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[:3])[:400]
