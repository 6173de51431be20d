"""Counts and names of figures, as sentences write them."""

from collections.abc import Mapping

_ENDINGS = (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss"), ("xes", "x"), ("s", ""))
# The statistics of dependence must never be confused with each other.
_FIGURES = {
    "dcor_squared_unbiased": "bias-corrected squared dCor",
    "dcor_squared": "plain squared dCor",
    "dcor": "plain dCor",
}
_KINDS = 4  # listed by name


def counted_kinds(kinds: Mapping[str, int]) -> str:
    """Return how many there are of each kind, most frequent first: 12 .heic, 1 .txt."""
    ordered = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    named = [f"{number:,} {name}" for name, number in ordered[:_KINDS]]
    rest = sum(number for _, number in ordered[_KINDS:])
    return ", ".join([*named, *([f"{rest:,} of other kinds"] if rest else [])])


def counted(number: int, things: str) -> str:
    """Return a count with its noun, which is given in the plural: 1 image, 2,000 images."""
    return f"{number:,} {unit_of(number, things)}"


def unit_of(number: int, things: str) -> str:
    """Return the noun that goes with a number: image for 1, images for 2."""
    if number != 1:
        return things
    for ending, instead in _ENDINGS:
        if things.endswith(ending):
            return things.removesuffix(ending) + instead
    return things


def spoken(key: str, *, main: str = "") -> str:
    """Return a figure's key in words; the feature's name after `_with_` stays as it is.

    `main` is a figure whose bounds have the keys `<main>_low` and `<main>_high`.
    """
    bound = key.removeprefix(f"{main}_")
    if main and bound in ("low", "high"):
        return f"{spoken(main)} {bound}"
    figure, with_, feature = key.partition("_with_")
    said = _FIGURES.get(figure, figure).replace("_", " ")
    return f"{said} with {feature}" if with_ else said
