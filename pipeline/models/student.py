"""`student`: the network that is trained, and its options in an experiment."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from pipeline.base.errors import ConfigError, unknown_name
from pipeline.base.options import Options, added
from pipeline.base.own_code import PREFIX
from pipeline.base.timm_catalogue import FOLDER, HUB
from pipeline.models.cifar_resnet import CIFAR_RESNETS

TORCHVISION_RESNETS = ("resnet18", "resnet34", "resnet50")
TIMM_PREFIX = "timm:"
OWN_PREFIX = "own:"  # before a name that was registered in this process
PRETRAINED = "pretrained"


class Stem(NamedTuple):
    """The first convolution: its kernel and stride, in pixels."""

    kernel: int
    stride: int


STEMS = {"7x7": Stem(7, 2), "3x3": Stem(3, 1), "3x3/2": Stem(3, 2)}

ARCHITECTURES = (*TORCHVISION_RESNETS, *CIFAR_RESNETS)


class StudentOptions(Options):
    """The student: a torchvision ResNet, a CIFAR ResNet, or `timm:NAME` for any timm backbone.

    A network of the user's own is `python:package.module:function`, with `trust: true`, or
    `own:NAME` if it was registered in this process; see `pipeline/models/own_backbone.py`.

    The defaults of `stem`, `maxpool` and `zero_init_residual` are the architecture's own: a 7x7
    stem with max-pool for a torchvision ResNet, 3x3 without for a CIFAR ResNet, and residual
    branches that start at zero for both. A 3x3 stem keeps the resolution; 3x3/2 halves it, for
    a quarter of the work. A timm backbone is used as it is.
    """

    architecture: str
    stem: Literal["7x7", "3x3", "3x3/2"] | None = None
    maxpool: bool | None = None
    zero_init_residual: bool | None = None
    # Widths of the projector's layers; if empty, the objective uses the features themselves.
    projector: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = ()
    # Of a network of the user's own: the layer whose output the features are, if not the last.
    layer: str | None = added(None)
    # Whether the code that `architecture` names may be imported and run.
    trust: bool = added(False)
    # Weights to start from: the name of a finished run, a checkpoint, a state dict of timm's or
    # torchvision's network (safetensors or PyTorch), or `pretrained` for those that timm offers.
    weights: str | None = None

    @field_validator("architecture")
    @classmethod
    def _known(cls, name: str) -> str:
        if name in ARCHITECTURES or name.startswith((TIMM_PREFIX, OWN_PREFIX, PREFIX)):
            return name
        valid = [*ARCHITECTURES, f"{TIMM_PREFIX}NAME", f"{PREFIX}package.module:function"]
        raise ValueError(unknown_name("architecture", name, valid))

    @model_validator(mode="after")
    def _possible(self) -> "StudentOptions":
        if self.weights == PRETRAINED and not self.architecture.startswith(TIMM_PREFIX):
            raise ValueError(f"weights: {PRETRAINED} is for backbones {TIMM_PREFIX}NAME")
        if self.layer is not None and not self.is_own:
            raise ValueError("layer is for a network of your own; leave it out")
        if self.is_own or self.architecture.startswith(TIMM_PREFIX):
            whose = "a network of your own" if self.is_own else "a timm backbone"
            for key in ("stem", "maxpool", "zero_init_residual"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} cannot be chosen for {whose}; leave it out")
        elif self.architecture in CIFAR_RESNETS and (self.stem == "7x7" or self.maxpool):
            raise ValueError("a CIFAR ResNet has a stem of 3x3 or 3x3/2, and no max-pool")
        return self

    @property
    def is_own(self) -> bool:
        """Whether the network is of the user's own code."""
        return self.architecture.startswith((OWN_PREFIX, PREFIX))


def student_section(text: str) -> dict[str, str]:
    """Return the section `student` of a network such as "timm:mobilenetv3_small_100".

    After another colon, the weights may follow from which it starts, as `student.weights` names
    them. Raises ConfigError for a text of another form; whether there is such a network is not
    looked up.
    """
    kind = TIMM_PREFIX if text.startswith(TIMM_PREFIX) else ""
    rest = text.removeprefix(kind)
    if text.startswith((PREFIX, OWN_PREFIX)) or rest.startswith((HUB, FOLDER)):
        return {"architecture": text}
    name, colon, weights = rest.partition(":")
    if not name or bool(colon) != bool(weights):
        raise ConfigError(
            f"A student is NAME or {TIMM_PREFIX}NAME, or one of these with :FILE for weights to "
            f"start from, or {TIMM_PREFIX}NAME:{PRETRAINED}; found {text!r}."
        )
    return {"architecture": kind + name, **({"weights": weights} if weights else {})}
