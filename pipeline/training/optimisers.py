"""Optimisers by name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from pipeline.base.errors import ConfigError
from pipeline.base.options import Options

Betas = Annotated[
    tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]],
    Field(strict=False),
]


class OptimizerOptions(Options):
    """`train.optimizer`.

    adam, sgd and lars add `weight_decay` to the gradient (an L2 penalty); adamw subtracts it from
    the weights themselves. Vectors, that is biases and the scales and shifts of norms, do not decay
    unless `decay_norms_and_biases` is set.
    """

    name: Literal["adam", "adamw", "sgd", "lars"] = "adam"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    decay_norms_and_biases: bool = False
    # Defaults: momentum 0.9 for sgd and lars, betas (0.9, 0.999) for adam and adamw.
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    betas: Betas | None = None

    @model_validator(mode="after")
    def _possible(self) -> "OptimizerOptions":
        adaptive = self.name in ("adam", "adamw")
        if adaptive and self.momentum is not None:
            raise ValueError(f"{self.name} has betas, no momentum; leave momentum out")
        if not adaptive and self.betas is not None:
            raise ValueError(f"{self.name} has momentum, no betas; leave betas out")
        if self.name == "lars" and self.decay_norms_and_biases:
            raise ValueError("lars spares norms and biases; leave decay_norms_and_biases out")
        return self


def build_optimizer(
    parameters: Iterable[tuple[str, Tensor]],
    options: OptimizerOptions,
    *,
    lr: float,
    lr_factors: Mapping[str, float] | None = None,
) -> Optimizer:
    """Return the optimiser of `options` for named parameters, such as `named_parameters()`.

    The first group holds the matrices and kernels, the second the vectors: biases and norms.
    Parameters whose name begins with a key of `lr_factors` learn at that multiple of `lr`, in two
    groups of their own with the key `lr_factor`. Parameters that need no gradient are omitted. The
    optimiser's state includes the names. Raises ConfigError if nothing is left to learn.
    """
    learnable = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    if not learnable:
        raise ConfigError("There is nothing to optimise: no parameter needs a gradient.")
    groups: Groups = []
    for prefix, factor in (lr_factors or {}).items():
        own = [pair for pair in learnable if pair[0].startswith(prefix)]
        learnable = [pair for pair in learnable if not pair[0].startswith(prefix)]
        groups += [
            {**group, "lr": lr * factor, "lr_factor": factor} for group in _by_decay(own, options)
        ]
    return OPTIMIZERS[options.name]([*_by_decay(learnable, options), *groups], lr, options)


Groups = list[dict[str, Any]]


def _by_decay(named: Sequence[tuple[str, Tensor]], options: OptimizerOptions) -> Groups:
    weights = [pair for pair in named if pair[1].ndim > 1]
    vectors = [pair for pair in named if pair[1].ndim <= 1]
    decay = options.weight_decay
    groups: Groups = [
        {"params": weights, "weight_decay": decay},
        {"params": vectors, "weight_decay": decay if options.decay_norms_and_biases else 0.0},
    ]
    return [group for group in groups if group["params"]]


def _adam(groups: Groups, lr: float, options: OptimizerOptions) -> Optimizer:
    return Adam(groups, lr=lr, betas=options.betas or (0.9, 0.999))


def _adamw(groups: Groups, lr: float, options: OptimizerOptions) -> Optimizer:
    return AdamW(groups, lr=lr, betas=options.betas or (0.9, 0.999))


def _sgd(groups: Groups, lr: float, options: OptimizerOptions) -> Optimizer:
    return SGD(groups, lr=lr, momentum=_momentum(options))


def _lars(groups: Groups, lr: float, options: OptimizerOptions) -> Optimizer:
    """LARS (arXiv 1708.03888) with the coefficient of Barlow Twins and VICReg, 0.001.

    Vectors take plain momentum steps. By default, timm does not adapt weights whose decay is 0
    either, so `always_adapt` is set for them.
    """
    from timm.optim import Lars

    adapted = [
        {**group, "always_adapt": any(p.ndim > 1 for _, p in group["params"])} for group in groups
    ]
    optimizer: Optimizer = Lars(adapted, lr=lr, momentum=_momentum(options), trust_coeff=0.001)
    return optimizer


def _momentum(options: OptimizerOptions) -> float:
    return 0.9 if options.momentum is None else options.momentum


OPTIMIZERS: dict[str, Callable[[Groups, float, OptimizerOptions], Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
    "lars": _lars,
}
