"""The course of training: objective, terms, probes, learning rate, speed, waiting."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from pipeline.images.view_options import ViewOptions
from pipeline.objective.weights import ChangingWeight
from pipeline.reporting.figures import Key, Line, keys, line_chart
from pipeline.reporting.formats import number, percent
from pipeline.reporting.run_facts import RunFacts
from pipeline.reporting.sample import Absent
from pipeline.reporting.term_sentences import TermSentence, terms_of
from pipeline.training.curve_names import EXPLAINED, KNN, PROBE, TERM, TRIVIAL, WEIGHT

SPLITS = {"train": "training", "validation": "validation"}
TRAINED = f"train/{TERM}"


@dataclass(frozen=True)
class Chart:
    """What one chart shows: a short name for each column of the curves, multiplied by `scale`."""

    name: str
    title: str
    columns: Mapping[str, str]
    scale: float = 1.0
    from_zero: bool = False
    small: bool = False


@dataclass(frozen=True)
class Drawn:
    """A chart as SVG, with a sentence that describes it; `keys` is empty for a single line."""

    title: str
    svg: Markup
    spoken: str
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Contribution:
    """One term of the objective and its curve, and two facts of the best epoch.

    `share` is what the term adds to the objective; `explained` compares it with its trivial answer,
    empty where there is none.
    """

    term: TermSentence
    drawn: Drawn
    share: str
    explained: str


@dataclass(frozen=True)
class CurvesPanel:
    """All charts, the terms, and their numbers: one head per column, one row per epoch."""

    charts: tuple[Drawn, ...]
    terms: tuple[Contribution, ...]
    two_random_views: bool
    local_views: str  # what the views are where some are local, empty otherwise
    joined_processes: int | None  # whose batches training joins and validation does not
    best_epoch: int | None
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def charts_of(columns: Sequence[str]) -> list[Chart]:
    """Return the charts of the training as a whole that can be drawn from these columns."""
    charts = (
        Chart("objective", "Objective", {f"{s}/objective": name for s, name in SPLITS.items()}),
        Chart(
            "probe",
            "Online probes, validation (%)",
            {PROBE: "linear", KNN: "nearest neighbours"},
        ),
        Chart("rate", "Learning rate", {"learning_rate": ""}, from_zero=True),
        Chart("speed", "Speed (images/s)", {"images_per_second": ""}, from_zero=True),
        Chart("waiting", "Waiting for data (% of the time)", {"wait_share": ""}, 100, True),
    )
    return _possible(charts, columns)


def term_charts_of(columns: Sequence[str]) -> list[Chart]:
    """Return a small chart of each term before weighting, each with its own scale."""
    names = [column.removeprefix(TRAINED) for column in columns if column.startswith(TRAINED)]
    charts = (
        Chart(name, name, {f"{s}/{TERM}{name}": spoken for s, spoken in SPLITS.items()}, small=True)
        for name in names
    )
    return _possible(tuple(charts), columns)


def _possible(charts: Sequence[Chart], columns: Sequence[str]) -> list[Chart]:
    present = (
        replace(chart, columns={c: name for c, name in chart.columns.items() if c in columns})
        for chart in charts
    )
    return [chart for chart in present if chart.columns]


def values_of(run: RunFacts, column: str, scale: float = 1.0) -> list[float]:
    """Return a column of a run's curves; NaN where an epoch has no value."""
    values = (row.get(column) for row in run.curves)
    return [math.nan if value is None else scale * value for value in values]


def curves(run: RunFacts) -> CurvesPanel | Absent:
    """Return the charts of a run's training."""
    if not run.curves:
        return Absent("this run did not train: its weights were given")
    columns = list(run.curves[0])
    best = run.training.get("epoch")
    return CurvesPanel(
        charts=tuple(_drawn(chart, run, best) for chart in charts_of(columns)),
        terms=tuple(_contributions(run, columns, best)),
        two_random_views=run.config["train"]["augment_both"],
        local_views=_local_views(run),
        joined_processes=_joined_processes(run),
        best_epoch=best,
        heads=tuple(column.replace("_", " ") for column in columns),
        rows=tuple(tuple(_cell(row[column]) for column in columns) for row in run.curves),
    )


def _local_views(run: RunFacts) -> str:
    views = ViewOptions.model_validate(run.config["train"].get("views", {}))
    return views.told(run.config["dataset"]["image"]["size"]) if views.local else ""


def _joined_processes(run: RunFacts) -> int | None:
    parallel = run.config["train"]["parallel"]
    processes = int(parallel["devices"] * parallel["nodes"])
    return processes if processes > 1 and parallel["gather"] else None


def _contributions(run: RunFacts, columns: Sequence[str], best: int | None) -> list[Contribution]:
    charts = {chart.name: chart for chart in term_charts_of(columns)}
    return [
        Contribution(
            term,
            _drawn(charts[term.name], run, best),
            _share(term, run, best),
            _explained(term, run, best),
        )
        for term in terms_of(run, _teachers(run))
        if term.name in charts
    ]


def _teachers(run: RunFacts) -> dict[str, str]:
    """Return the network of each stored feature that a teacher made, by the feature's name."""
    options = {f.name: run.config["features"][f.name] for f in run.cached if f.teacher}
    return {name: str(found.get("model", name)) for name, found in options.items()}


def _share(term: TermSentence, run: RunFacts, best: int | None) -> str:
    """Return what a term, times its weight, adds to the training objective at the best epoch."""
    row = _row(run, best)
    value, whole = row[f"{TRAINED}{term.name}"], row.get("train/objective")
    weight = row.get(f"train/{WEIGHT}{term.name}")
    if weight is None and not isinstance(term.weight, ChangingWeight):
        weight = term.weight
    if value is None or whole is None or weight is None:
        return ""
    return f"{weight * value:.3g} of {whole:.3g}"


def _explained(term: TermSentence, run: RunFacts, best: int | None) -> str:
    """Return a sentence on a term of validation beside its trivial answer, at the best epoch."""
    row = _row(run, best)
    value, trivial, share = (
        row.get(f"validation/{kind}{term.name}") for kind in (TERM, TRIVIAL, EXPLAINED)
    )
    if value is None or trivial is None or share is None:
        return ""
    return (
        f"On validation images {number(value)}, where {number(trivial)} is {term.trivial}: "
        f"{percent(100 * share)} % explained."
    )


def _row(run: RunFacts, best: int | None) -> Mapping[str, float | None]:
    return next((row for row in run.curves if row["epoch"] == best), run.curves[-1])


def _cell(value: float | None) -> str:
    return "" if value is None else number(value)


def _drawn(chart: Chart, run: RunFacts, best: int | None) -> Drawn:
    epochs = values_of(run, "epoch")
    lines = [
        Line(label, epochs, values_of(run, column, chart.scale), place)
        for place, (column, label) in enumerate(chart.columns.items())
    ]
    return draw(f"curve-{'term-' if chart.small else ''}{chart.name}", chart, lines, mark=best)


def draw(name: str, chart: Chart, lines: Sequence[Line], *, mark: int | None = None) -> Drawn:
    """Return a chart of these lines; `name` must be unique on the page."""
    svg = line_chart(
        name,
        lines,
        x_label="epoch",
        from_zero=chart.from_zero,
        small=chart.small,
        mark=mark,
    )
    told = f"{chart.title}: {'; '.join(map(spoken, lines))}."
    return Drawn(chart.title, svg, told, keys(lines) if len(lines) > 1 else ())


def spoken(line: Line) -> str:
    """Return a description of where a line begins and ends."""
    known = [value for value in line.y if not math.isnan(value)]
    if not known:
        return f"{line.label} has no values".strip()
    return f"{line.label} from {number(known[0])} to {number(known[-1])}".strip()
