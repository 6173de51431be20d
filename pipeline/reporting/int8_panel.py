"""An encoder exported as ONNX in float and in int8, side by side."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.formats import count, percent, size, times
from pipeline.reporting.protocol_texts import UNITLESS, figure_of
from pipeline.reporting.run_facts import RunFacts
from pipeline.reporting.sample import Absent

FILES = ("float", "int8")
NOTABLE = 1.1  # factors nearer to 1 are within what a measurement of time varies


@dataclass(frozen=True)
class Int8Comparison:
    """Rows of a name, the value of the float file, and that of the int8 file.

    `verdict` says how the int8 file differs in size and latency.
    """

    rows: tuple[tuple[str, str, str], ...]
    verdict: str


def exported_int8(run: RunFacts) -> Int8Comparison | Absent:
    """Return the comparison that the cards of the exported files hold."""
    if run.int8 is None:
        return Absent("the run was not exported by `mvmr export --int8`")
    return compared(run.int8)


def compared(comparison: Mapping[str, Any]) -> Int8Comparison:
    """Return the comparison in a card as a table."""
    one, other = (comparison[name] for name in FILES)
    return Int8Comparison(
        rows=tuple(_rows(comparison)),
        verdict=f"The int8 file takes {times(one['bytes'] / other['bytes'])} times less space than "
        f"the float file, and {_speed(one['latency_ms'] / other['latency_ms'])} on this CPU "
        f"({comparison['latency']['cpu']}).",
    )


def _speed(faster: float) -> str:
    if faster >= NOTABLE:
        return f"is {times(faster)} times as fast"
    return "is about as fast" if faster > 1 / NOTABLE else f"is {times(1 / faster)} times slower"


def _rows(comparison: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    one, other = (comparison[name] for name in FILES)
    latency, agreement = comparison["latency"], comparison["agreement"]
    threads = "1 thread" if latency["threads"] == 1 else f"{latency['threads']} threads"
    yield "file", size(one["bytes"]), size(other["bytes"])
    yield (
        f"one image, {threads}, median of {latency['runs']} runs",
        f"{one['latency_ms']:.3g} ms",
        f"{other['latency_ms']:.3g} ms",
    )
    for name, score in one["scores"].items():
        main = score["main"]
        unit = "" if main in UNITLESS else " (%)"
        yield f"{name}: {figure_of(main)}{unit}", _score(score), _score(other["scores"][name])
    between = f"{percent(agreement['low'])} to {percent(agreement['high'])}"
    yield (
        f"{agreement['k']} nearest neighbours in common (%), "
        f"{count(agreement['images'])} {agreement['split']} images",
        "",
        f"{percent(agreement['percent'])} ({between})",
    )


def _score(score: Mapping[str, Any]) -> str:
    main = score["main"]
    low, high = score.get(f"{main}_low"), score.get(f"{main}_high")
    between = "" if low is None or high is None else f" ({percent(low)} to {percent(high)})"
    return f"{percent(score[main])}{between}"
