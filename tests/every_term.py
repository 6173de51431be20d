"""Every kind of term of the objective, with each value of its options that are a choice."""

from typing import Any, get_args

from pipeline.objective.terms import AnyTerm


def every_term() -> dict[str, Any]:
    """Return options of terms by name; their representation, if they need one, is `r`."""
    found: dict[str, Any] = {}
    for kind in get_args(AnyTerm):
        name = kind.model_fields["kind"].default
        given = {"representation": "r"} if "representation" in kind.model_fields else {}
        found[name] = {"kind": name, **given}
        for option, field in kind.model_fields.items():
            choices = (False, True) if field.annotation is bool else get_args(field.annotation)
            for choice in choices if option != "kind" else ():
                if isinstance(choice, str | bool):
                    found[f"{name}_{option}_{choice}"] = {"kind": name, **given, option: choice}
    return found
