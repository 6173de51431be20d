"""How a sentence counts things."""

from collections.abc import Mapping

_ENDINGS = (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss"), ("xes", "x"), ("s", ""))
# The two statistics of dependence are never to be taken for each other.
_FIGURES = {
    "dcor_squared_unbiased": "bias-corrected squared dCor",
    "dcor_squared": "plain squared dCor",
    "dcor": "plain dCor",
}
_KINDS = 4  # that are named


def counted_kinds(kinds: Mapping[str, int]) -> str:
    """Return how many there are of each kind, most first: 12 .heic, 1 .txt."""
    ordered = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    named = [f"{number:,} {name}" for name, number in ordered[:_KINDS]]
    rest = sum(number for _, number in ordered[_KINDS:])
    return ", ".join([*named, *([f"{rest:,} of other kinds"] if rest else [])])


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


def spoken(key: str, *, main: str = "") -> str:
    """Return a figure's key as people read it; what follows `_with_` is a feature's own name.

    `main` is a figure whose bounds, `<main>_low` and `<main>_high`, are told from such names.
    """
    bound = key.removeprefix(f"{main}_")
    if main and bound in ("low", "high"):
        return f"{spoken(main)} {bound}"
    figure, with_, feature = key.partition("_with_")
    said = _FIGURES.get(figure, figure).replace("_", " ")
    return f"{said} with {feature}" if with_ else said
