"""Every kind of term of the objective, with each value of its options that are a choice."""

from collections.abc import Mapping
from typing import Any, get_args

import torch
from pydantic import TypeAdapter
from torch import Tensor

from pipeline.objective.objective import Moment, Objective, ObjectiveValue
from pipeline.objective.references import Reference
from pipeline.objective.shared_batch import Activations
from pipeline.objective.terms import AnyTerm, ObjectiveOptions, OwnTerm


def every_term() -> dict[str, Any]:
    """Return options of terms by name; their representation, if they need one, is `r`."""
    found: dict[str, Any] = {}
    for kind in get_args(AnyTerm):
        if kind is OwnTerm:  # which is whatever its user makes it
            continue
        name = kind.model_fields["kind"].default
        given = {"representation": "r"} if "representation" in kind.model_fields else {}
        found[name] = {"kind": name, **given}
        for option, field in kind.model_fields.items():
            choices = (False, True) if field.annotation is bool else get_args(field.annotation)
            for choice in choices if option != "kind" else ():
                if isinstance(choice, str | bool):
                    found[f"{name}_{option}_{choice}"] = {"kind": name, **given, option: choice}
    return found


def objective_of(name: str, rows: Mapping[str, Tensor], *, gather: bool = False) -> Objective:
    """Return an objective of one of these terms, for rows `h`, `z` and `r` as wide as these."""
    terms = TypeAdapter(ObjectiveOptions).validate_python({name: every_term()[name]})
    widths = {key: x.shape[1] for key, x in rows.items()}
    # Fixed, so that all processes have the same; far from the images of any batch.
    known = torch.randn(16, widths["r"], generator=torch.Generator().manual_seed(5))
    index = torch.arange(1000, 1016)
    reference = Reference(known, index, known.mean(0), known.std(0))
    return Objective(
        terms,
        h_width=widths["h"],
        z_width=widths["z"],
        representation_widths={"r": widths["r"]},
        references={"r": reference},
        class_counts=torch.tensor([3, 1, 2]),
        gather=gather,
    )


def value_of(objective: Objective, rows: Mapping[str, Tensor]) -> ObjectiveValue:
    """Return its value, where other views' embeddings are functions of the original's."""
    views: Any = {
        layer: {
            "original": rows[layer],
            "augmented": (0.5 * rows[layer] + 1).sin(),
            "local-0": (0.8 * rows[layer] - 1).cos(),
            "local-1": (0.3 * rows[layer] + 2).sin(),
        }
        for layer in ("h", "z")
    }
    value: ObjectiveValue = objective(
        Activations(views["h"], views["z"]),
        {"r": rows["r"]},
        index=torch.arange(len(rows["r"]), device=rows["r"].device),
        labels=rows["r"].argmax(1) % 4 - 1,
        moment=Moment(progress=0.3, seed=4),
    )
    return value
