"""How a sentence counts things."""

_ENDINGS = (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss"), ("xes", "x"), ("s", ""))


def counted(number: int, things: str) -> str:
    """Return a count of things, which are named in the plural: 1 image, 2,000 images."""
    return f"{number:,} {unit_of(number, things)}"


def unit_of(number: int, things: str) -> str:
    """Return what so many things are called: image for 1, images for 2."""
    if number != 1:
        return things
    for ending, instead in _ENDINGS:
        if things.endswith(ending):
            return things.removesuffix(ending) + instead
    return things
