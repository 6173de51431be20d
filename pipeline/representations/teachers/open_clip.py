"""Teachers of the open_clip library: CLIP and its relatives.

The embedding is that of `encode_image`, not normalised; only the image tower is kept.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.base.digests import digest, state_digest
from pipeline.base.errors import ConfigError, WeightsError, WeightsMissingError, unknown_name
from pipeline.base.precision import full_precision
from pipeline.base.progress import Progress, Silent
from pipeline.base.seeds import generators_kept
from pipeline.base.timm_catalogue import FOLDER, HUB
from pipeline.images.original_view import ImageOptions
from pipeline.representations.teachers.frozen import (
    FrozenTeacher,
    LibraryPreparation,
    LibraryTeacherOptions,
    Precision,
    Setting,
    Transform,
    library_versions,
    mismatch,
)

TEXT_BATCH = 256
CHECKPOINTS = (".pt", ".pth", ".bin", ".safetensors")
LocalFile = Annotated[Path, Field(strict=False)]


class OpenClipOptions(LibraryTeacherOptions):
    """Which model, and where its weights are.

    `model` is a name that open_clip knows, `hf-hub:ORG/NAME`, `local-dir:FOLDER`, or the name of
    its JSON file, given in `config`, without the ending. `pretrained` is a tag of the model, or a
    checkpoint's path. The tag also sets the preprocessing of images, so without a network, keep
    the tag and set `weights` to a local copy of its checkpoint.
    """

    kind: Literal["open_clip"] = "open_clip"
    model: str
    pretrained: str | None = None
    weights: LocalFile | None = None
    config: LocalFile | None = None
    precision: Precision = "float32"

    @model_validator(mode="after")
    def _one_source(self) -> "OpenClipOptions":
        if self.model.startswith((HUB, FOLDER)):
            if self.pretrained or self.weights or self.config:
                raise ValueError(
                    f"{self.model} brings its own weights, so it takes neither pretrained nor "
                    "weights nor config"
                )
        elif self.pretrained is None:
            raise ValueError("set pretrained to a tag of the model or to a checkpoint's path")
        return self

    def files(self) -> dict[str, Path]:
        """Return the files to read; `pretrained` is one if it has the ending of a checkpoint."""
        own = Path(self.pretrained or "")
        checkpoint = {"pretrained": own} if own.suffix in CHECKPOINTS and not self.weights else {}
        return {**super().files(), **checkpoint}

    def build(self, image: ImageOptions) -> FrozenTeacher:
        """Load the image tower; its images are prepared from the decoded file, not from `image`."""
        del image
        from open_clip import get_model_preprocess_cfg

        model: Any = load_model(self)
        tower = model.visual
        preparation, described = self.prepared(
            LibraryPreparation(_transform, get_model_preprocess_cfg(model))
        )
        identity = {
            "kind": self.kind,
            "model": FOLDER if self.model.startswith(FOLDER) else self.model,
            "architecture": digest(_architecture(self)),
            "preprocessing": described,
            "weights": state_digest(tower),
            "libraries": library_versions("open_clip_torch"),
        }
        return FrozenTeacher(tower, preparation, identity, self.precision)


@generators_kept()
def load_model(options: OpenClipOptions) -> nn.Module:
    """Load both towers on the CPU, in float32 and evaluation mode, with their weights.

    Raises ConfigError for a name or tag that open_clip lacks, WeightsError if weights are
    missing, unreadable or of another architecture.
    """
    import open_clip

    _architecture(options)
    checkpoint, preprocessing = _checkpoint(options)
    try:
        # Without require_pretrained, a missing file only causes random weights and a log line.
        model: nn.Module = open_clip.create_model(
            options.model,
            pretrained=checkpoint,
            force_preprocess_cfg=preprocessing,
            require_pretrained=True,
        )
    except Exception as error:  # readers of several formats, each with its own errors
        if options.model.startswith(HUB):
            raise _cannot_fetch(options.model, error) from error
        raise WeightsError(
            f"The weights {checkpoint or options.model!r} do not load into open_clip's "
            f"{options.model!r}: {mismatch(error)}"
        ) from error
    return model.eval()


def text_embeddings(
    options: OpenClipOptions,
    prompts: Sequence[str],
    progress: Progress | None = None,
    *,
    device: torch.device | None = None,
) -> Tensor:
    """Return the embeddings (N, D) of `prompts` from the teacher's text tower, not normalised.

    They are computed on `device`, the CPU by default, and returned on the CPU.
    """
    import open_clip

    progress, parts = progress or Silent(), []
    device = device or torch.device("cpu")
    model: Any = load_model(options).to(device)
    tokens = open_clip.get_tokenizer(options.model)(list(prompts))
    with torch.no_grad(), full_precision(device):
        for part in tokens.split(TEXT_BATCH):
            parts.append(model.encode_text(part.to(device)).float().cpu())
            progress.advance(len(part))
    return torch.cat(parts)


def _transform(settings: dict[str, Setting]) -> Transform:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform: Transform = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    return transform


def _architecture(options: OpenClipOptions) -> Any:
    """Return the model's configuration; if it is a user's file, register it first."""
    import open_clip

    if options.config is not None:
        _register(options.model, options.config)
    try:
        architecture = open_clip.get_model_config(_clean(options.model))
    except Exception as error:  # the hub's client raises its own errors and its transport's
        if options.model.startswith(HUB):
            raise _cannot_fetch(options.model, error) from error
        raise WeightsError(f"{options.model!r} cannot be read: {error}.") from error
    if architecture is None:
        raise ConfigError(unknown_name("open_clip model", options.model, open_clip.list_models()))
    return architecture


def _register(name: str, path: Path) -> None:
    import open_clip

    try:
        architecture = json.loads(_present(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"The model config {str(path)!r} cannot be read: {error}.") from error
    if path.stem != name or path.suffix != ".json":
        raise ConfigError(
            f"open_clip names a model after its config file: {path.name!r} must be "
            f"{name + '.json'!r}, or `model` must be {path.stem!r}."
        )
    missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(architecture)
    if missing:
        raise ConfigError(f"The model config {str(path)!r} lacks {', '.join(sorted(missing))}.")
    if open_clip.get_model_config(name) != architecture:
        open_clip.add_model_config(path)


def _checkpoint(options: OpenClipOptions) -> tuple[str | None, dict[str, Any]]:
    """Return the local file of the weights, and the preprocessing that the tag prescribes."""
    import open_clip

    if options.pretrained is None:
        return None, {}
    name = _clean(options.model)
    tag = open_clip.get_pretrained_cfg(name, options.pretrained)
    if tag:
        _same_activation(options, tag)
        # The tower sets the size of the images, not the tag.
        prescribed = {key: value for key, value in tag.items() if key != "size"}
        if options.weights is not None:
            return str(_present(options.weights)), prescribed
        return _download(options, tag), prescribed
    if options.weights is None and Path(options.pretrained).suffix:
        return str(_present(Path(options.pretrained))), {}
    tags = open_clip.list_pretrained_tags_by_model(name)
    known = unknown_name(f"pretrained tag of {name}", options.pretrained, tags)
    raise ConfigError(f"{known} A checkpoint's path ends in .pt or .safetensors.")


def _present(path: Path) -> Path:
    if not path.is_file():
        raise WeightsMissingError(f"There is no file {str(path)!r}.")
    return path


def _same_activation(options: OpenClipOptions, tag: dict[str, Any]) -> None:
    quick = bool(tag.get("quick_gelu", False))
    if quick != bool(_architecture(options).get("quick_gelu", False)):
        raise ConfigError(
            f"The weights {options.pretrained!r} were trained {'with' if quick else 'without'} "
            f"QuickGELU, and model {options.model!r} is the other kind; choose the model "
            f"{'with' if quick else 'without'} '-quickgelu' in its name."
        )


def _download(options: OpenClipOptions, tag: dict[str, Any]) -> str:
    """Return the path of the tag's checkpoint, from the hub's cache or the network."""
    import open_clip

    try:
        return str(open_clip.download_pretrained(tag))
    except Exception as error:  # the hub's client raises its own errors and its transport's
        repository, _, file = tag.get("hf_hub", "").rpartition("/")
        source = tag.get("url", "its publisher")
        if repository:
            source = f"the Hugging Face repository {repository}"
        raise WeightsMissingError(
            f"The weights {options.pretrained!r} of open_clip's {options.model!r} are not on this "
            f"machine and cannot be fetched ({_brief(error)}): fetch "
            f"{file or 'open_clip_model.safetensors'} from {source} where there is a network, put "
            "it anywhere on this machine, and set `weights` to its path."
        ) from error


def _cannot_fetch(model: str, error: Exception) -> WeightsMissingError:
    repository = model.removeprefix(HUB)
    return WeightsMissingError(
        f"The model {model!r} is not on this machine and cannot be fetched "
        f"({_brief(error)}): fetch open_clip_config.json and open_clip_model.safetensors "
        f"of the Hugging Face repository {repository} where there is a network, put both into a "
        f"folder here, and set `model` to {FOLDER}FOLDER."
    )


def _brief(error: Exception) -> str:
    """Return the first sentence of an error; `--debug` shows the rest."""
    return (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]


def _clean(model: str) -> str:
    return model if model.startswith((HUB, FOLDER)) else model.replace("/", "-")
