"""The course of training: objective, terms, probes, learning rate, speed, waiting."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.reporting.figures import Line, line_chart
from pipeline.reporting.formats import number
from pipeline.reporting.run import Run
from pipeline.reporting.sample import Absent

PROBE, KNN = "validation/probe_top1", "validation/knn_top1"
OBJECTIVE = ("train/objective", "validation/objective")


@dataclass(frozen=True)
class Chart:
    """What one chart shows: columns of the curves, times `scale`, by a short name of each."""

    name: str
    title: str
    columns: tuple[tuple[str, str], ...]
    y_label: str = ""
    scale: float = 1.0
    from_zero: bool = False


@dataclass(frozen=True)
class Drawn:
    """A chart as SVG, with a sentence that says what it shows."""

    title: str
    svg: Markup
    spoken: str


@dataclass(frozen=True)
class Curves:
    """All charts, and the numbers behind them: a head a column, a row an epoch."""

    charts: tuple[Drawn, ...]
    best_epoch: int | None
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def charts_of(columns: Sequence[str]) -> list[Chart]:
    """Return the charts for which these columns of the curves suffice."""
    terms = [name for name in columns if name.startswith("train/term/")]
    charts = [
        Chart(
            "objective",
            "Objective",
            ((OBJECTIVE[0], "training"), (OBJECTIVE[1], "validation")),
        ),
        Chart(
            "terms",
            "Terms of the objective, training, unweighted",
            tuple((name, name.removeprefix("train/term/")) for name in terms),
        ),
        Chart(
            "probe",
            "Online probes, validation",
            ((PROBE, "linear"), (KNN, "nearest neighbours")),
            "top-1 accuracy (%)",
        ),
        Chart("rate", "Learning rate", (("learning_rate", "learning rate"),), from_zero=True),
        Chart(
            "speed",
            "Speed",
            (("images_per_second", "images a second"),),
            "images/s",
            from_zero=True,
        ),
        Chart(
            "waiting",
            "Waiting for data",
            (("wait_share", "share of the time"),),
            "share of the time (%)",
            100,
            from_zero=True,
        ),
    ]
    kept = [(chart, tuple(c for c in chart.columns if c[0] in columns)) for chart in charts]
    return [
        Chart(c.name, c.title, present, c.y_label, c.scale, c.from_zero)
        for c, present in kept
        if present
    ]


def values_of(run: Run, column: str, scale: float = 1.0) -> list[float]:
    """Return a column of a run's curves; NaN where an epoch has no value."""
    values = (row.get(column) for row in run.curves)
    return [math.nan if value is None else scale * value for value in values]


def curves(run: Run) -> Curves | Absent:
    """Return the charts of a run's training."""
    if not run.curves:
        return Absent("this run did not train: its weights were given")
    columns = list(run.curves[0])
    best = run.training.get("epoch")
    return Curves(
        charts=tuple(_drawn(chart, run, best) for chart in charts_of(columns)),
        best_epoch=best,
        heads=tuple(column.replace("_", " ") for column in columns),
        rows=tuple(tuple(_cell(row[column]) for column in columns) for row in run.curves),
    )


def _cell(value: float | None) -> str:
    return "" if value is None else number(value)


def _drawn(chart: Chart, run: Run, best: int | None) -> Drawn:
    epochs = values_of(run, "epoch")
    lines = [
        Line(label, epochs, values_of(run, column, chart.scale), place)
        for place, (column, label) in enumerate(chart.columns)
    ]
    svg = line_chart(
        f"curve-{chart.name}",
        lines,
        x_label="epoch",
        y_label=chart.y_label,
        from_zero=chart.from_zero,
        mark=best,
    )
    return Drawn(chart.title, svg, f"{chart.title}: {'; '.join(map(spoken, lines))}.")


def spoken(line: Line) -> str:
    """Say where a line begins and ends."""
    known = [value for value in line.y if not math.isnan(value)]
    if not known:
        return f"{line.label} has no values"
    return f"{line.label} from {number(known[0])} to {number(known[-1])}"
