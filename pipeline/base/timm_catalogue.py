"""What the timm library says of its networks and their weights; everything here imports timm."""

from pipeline.base.errors import unknown_name

QUICK_GELU, QUICK_MODEL = "QuickGELU", "quickgelu"

# Before the names of models that are not in a library, as timm and open_clip write them.
HUB, FOLDER = "hf-hub:", "local-dir:"


def unknown_backbone(name: str) -> str | None:
    """Return what is wrong with the name of a timm network, or None."""
    import timm

    if timm.is_model(name):
        return None
    near = unknown_name("timm backbone", name, timm.list_models())
    # timm has over a thousand names, too many for a message; its own command lists them.
    hint = near.partition(" Valid:")[0]
    return f"{hint} `timm.list_models()` lists the valid ones."


def takes_one_size(name: str) -> bool:
    """Whether a timm network takes only images of the size that it was built for."""
    import timm

    config = timm.get_pretrained_cfg(name)
    return config is not None and bool(config.fixed_input_size)


def other_activation(name: str, notes: object = None) -> str | None:
    """Return what is wrong with a network whose weights were trained with another activation.

    OpenAI's CLIP and some that followed it use QuickGELU. timm offers their weights for networks
    with GELU too, where they give other embeddings; its notes on the weights say so. `notes` are
    those of weights that timm does not list. Returns None if network and weights agree.
    """
    import timm

    architecture, _, tag = name.partition(".")
    if notes is None and timm.is_model(architecture):
        notes = timm.get_pretrained_cfg(name).notes
    if QUICK_MODEL in architecture or QUICK_GELU not in str(notes):
        return None
    quick = timm.list_models(f"*{QUICK_MODEL}*")
    twins = [twin for twin in quick if twin.replace(f"{QUICK_MODEL}_", "") == architecture]
    right = ".".join([*twins[:1], *([tag] if tag else [])])
    instead = f"use {right!r}" if twins else f"use a network whose name contains {QUICK_MODEL!r}"
    return (
        f"The weights of timm's {name!r} were trained with {QUICK_GELU}, and this network has "
        f"GELU, with which they give other embeddings: {instead}."
    )
