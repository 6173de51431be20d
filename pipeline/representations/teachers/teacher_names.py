"""Teachers by one text, as they are named on the command line and in Python."""

from typing import Any

from pipeline.base.errors import ConfigError
from pipeline.base.timm_catalogue import FOLDER, HUB

FORMS = "open_clip:MODEL/TAG, timm:NAME, or one of these with :FILE for weights in a file"


def teacher_section(text: str) -> dict[str, Any]:
    """Return the section of `features` of a teacher such as "open_clip:ViT-B-16/laion400m_e32".

    After another colon, a file may follow that holds the weights. `hf-hub:ORG/NAME` and
    `local-dir:FOLDER` are models too. Raises ConfigError for a text of another form; whether the
    library has the model is not looked up.
    """
    kind, _, named = text.partition(":")
    if kind in ("open_clip", "timm") and named.startswith((HUB, FOLDER)):
        return {"kind": kind, "model": named, **({"pretrained": True} if kind == "timm" else {})}
    model, colon, file = named.partition(":")
    if model and bool(colon) == bool(file):
        if kind == "timm":
            return {"kind": kind, "model": model, **_from(file, {"pretrained": True})}
        name, _, tag = model.rpartition("/")
        if kind == "open_clip" and name and tag:
            return {"kind": kind, "model": name, "pretrained": tag, **_from(file, {})}
    raise ConfigError(f"A teacher is {FORMS}; found {text!r}.")


def _from(file: str, otherwise: dict[str, Any]) -> dict[str, Any]:
    return {"weights": file} if file else otherwise
