"""How one score compares with another, in words: by how much, and whether that is settled."""

from collections.abc import Sequence
from typing import Literal

from pipeline.metrics.paired import Paired
from pipeline.reporting.formats import count, percent

Standing = Literal["ahead", "behind", "open"]


def standing_of(pair: Paired) -> Standing:
    """Return whether the first is ahead of or behind the second; `open` where not settled."""
    if not pair.settled:
        return "open"
    return "ahead" if pair.difference > 0 else "behind"


def signed(pair: Paired) -> str:
    """Return a difference with its sign and its interval: +3.8 (1.9 to 5.6)."""
    sign = "+" if pair.difference > 0 else ""
    return f"{sign}{_points(pair.difference)} ({_points(pair.low)} to {_points(pair.high)})"


def amount(pair: Paired) -> str:
    """Return the size of a difference without its sign: 3.8 points (1.9 to 5.6)."""
    low, high = sorted((abs(pair.low), abs(pair.high)))
    return f"{percent(abs(pair.difference))} points ({percent(low)} to {percent(high)})"


def compared_in_words(first: str, second: str, pair: Paired) -> str:
    """Return a sentence that says which of two is better, by how much, on how many images."""
    tally = (
        f"of the same {count(pair.images)} images it wins {count(pair.wins)} and loses "
        f"{count(pair.losses)}{_test(pair)}"
    )
    if pair.settled:
        word = "better" if pair.difference > 0 else "worse"
        return f"{first} is {word} than {second} by {amount(pair)}; {tally}."
    if pair.wins == pair.losses == 0:
        return f"{first} and {second} do the same on each of {count(pair.images)} images."
    return (
        f"The difference between {first} and {second} is not settled: it is {signed(pair)} "
        f"points; {tally.replace(' it ', f' {first} ', 1)}."
    )


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _points(value: float) -> str:
    return percent(value + 0.0 if round(value, 1) else 0.0).replace("-", "−")  # noqa: RUF001


def _test(pair: Paired) -> str:
    if pair.p is None:
        return ""
    p = "< 0.0001" if pair.p < 1e-4 else f"= {pair.p:.2g}"
    unbroken = f"p {p}".replace(" ", "\u00a0")
    return f" (McNemar's exact test, {unbroken})"
