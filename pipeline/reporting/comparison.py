"""Several runs side by side: scores, curves on the same axes, and differences in config."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.metrics.paired import Paired, paired
from pipeline.reporting.cached import cache
from pipeline.reporting.comparison_texts import compared_in_words, listed
from pipeline.reporting.curves import Chart, Drawn, charts_of, draw, term_charts_of, values_of
from pipeline.reporting.figures import Key, Line, keys
from pipeline.reporting.formats import count, duration, millions, number, percent, size
from pipeline.reporting.page import Panel, render
from pipeline.reporting.provenance import flat
from pipeline.reporting.run_facts import RunFacts
from pipeline.reporting.sample import STUDENT, Absent
from pipeline.reporting.scores import Protocol, Score, protocols

# Settings that differ in every run by design.
OWN = ("name",)
NOTHING = "–"  # noqa: RUF001
OTHERS = "they were not scored on the same images"
# Two runs are compared on the images that both have, if there are at least so many.
FEWEST_COMMON = 20


@dataclass(frozen=True)
class Row:
    """One line of a table, with one cell per run."""

    name: str
    cells: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether any cell differs from the first."""
        return len(set(self.cells)) > 1


@dataclass(frozen=True)
class Facts:
    """What the runs are; `warnings` say what cannot be compared."""

    runs: tuple[str, ...]
    rows: tuple[Row, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """One protocol: one score per run, None where the run was not evaluated.

    `before` are the same encoders before their training. `best` is the index of the highest score.
    The sentences in `told` say whether it is better than each of the others. `clear` is True if it
    is better than all others, None if there are no others.
    """

    name: str
    figure: str
    unit: str
    chance_says: str
    scores: tuple[Score | None, ...]
    before: tuple[Score | None, ...]
    best: int
    told: tuple[str, ...]
    clear: bool | None
    span: tuple[float, float]

    def place(self, value: float) -> float:
        """Return the position of a value on the axis, in percent of its length."""
        low, high = self.span
        return round(100 * (value - low) / (high - low), 2)


@dataclass(frozen=True)
class Comparison:
    """Scores of all runs by protocol.

    `verdict` says which run is best by which protocols. `apart` says which figures do not fit
    into one table, and why.
    """

    runs: tuple[str, ...]
    verdict: tuple[str, ...]
    protocols: tuple[Compared, ...]
    apart: tuple[str, ...]


@dataclass(frozen=True)
class Overlaid:
    """Curves of all runs on the same axes, with one legend for all charts.

    `without` names the runs that did not train.
    """

    charts: tuple[Drawn, ...]
    terms: tuple[Drawn, ...]
    keys: tuple[Key, ...]
    without: tuple[str, ...]


@dataclass(frozen=True)
class Differences:
    """The settings that differ, by dotted key, and the number of those that are the same."""

    runs: tuple[str, ...]
    rows: tuple[Row, ...]
    same: int


def render_comparison(runs: Sequence[RunFacts]) -> str:
    """Return the page that compares two or more runs."""
    names = " · ".join(run.name for run in runs)
    return render(f"{names}: comparison", names, f"comparison of {len(runs)} runs", compared(runs))


def compared(runs: Sequence[RunFacts]) -> list[Panel]:
    """Return the panels of a comparison."""
    return [
        Panel("compared-facts", "What is compared", facts(runs)),
        Panel("compared-scores", "Scores", scores(runs)),
        Panel("compared-curves", "Training", overlaid(runs)),
        Panel("compared-config", "Differences in config", differences(runs)),
    ]


def facts(runs: Sequence[RunFacts]) -> Facts:
    """Return what the runs are, and what they cost to make."""
    tells: Mapping[str, Callable[[RunFacts], str]] = {
        "data": lambda run: str(run.config["dataset"]["name"]),
        "training images": lambda run: count(run.splits["train"].images),
        "student": lambda run: run.student.architecture,
        "parameters": lambda run: millions(run.student.parameters),
        "numbers per image": lambda run: count(run.student.width),
        "epochs": lambda run: NOTHING if run.epochs is None else count(run.epochs),
        "seed": lambda run: str(run.config["seed"]),
        "best epoch": lambda run: str(run.training.get("epoch") or NOTHING),
        "stored features": lambda run: ", ".join(f.name for f in run.cached) or NOTHING,
        "their size": _cached,
        "effective rank": lambda run: number(run.health[STUDENT].rank),
        "dead dimensions (%)": lambda run: percent(100 * run.health[STUDENT].dead_share),
        "training time": _training_time,
    }
    return Facts(
        runs=tuple(run.name for run in runs),
        rows=tuple(Row(name, tuple(tell(run) for run in runs)) for name, tell in tells.items()),
        warnings=tuple(_warnings(runs)),
    )


def _cached(run: RunFacts) -> str:
    stored = cache(run)
    return NOTHING if isinstance(stored, Absent) else size(stored.bytes)


def _training_time(run: RunFacts) -> str:
    seconds = next((w.seconds for w in run.work if w.stage == "train"), None)
    return NOTHING if seconds is None else duration(seconds)


def _warnings(runs: Sequence[RunFacts]) -> list[str]:
    result = []
    last = {tuple(run.splits)[-1] for run in runs}
    tested = {run.splits[tuple(run.splits)[-1]].digest for run in runs}
    if len(last) > 1 or len(tested) > 1:
        result.append(
            "The runs were not scored on the same images: their scores cannot be compared "
            "directly. They are compared image by image on those that both have, if enough."
        )
    if len({run.splits["train"].digest for run in runs}) > 1:
        result.append("The runs were not trained on the same images.")
    if len({run.config["seed"] for run in runs}) == 1:
        result.append(
            "All runs have the same seed: a small difference may come from the seed alone."
        )
    return result


def scores(runs: Sequence[RunFacts]) -> Comparison | Absent:
    """Return the main figure of every protocol, with one table for each protocol and figure."""
    by_run = [{protocol.name: protocol for protocol in protocols(run)} for run in runs]
    names = dict.fromkeys(name for found in by_run for name in found)
    if not names:
        return Absent("none of the runs has been evaluated")
    tables, apart = [], []
    for name in names:
        found = [of.get(name) for of in by_run]
        figures = dict.fromkeys(protocol.figure for protocol in found if protocol is not None)
        if len(figures) > 1:
            apart.append(_apart(name, runs, found))
        for figure in figures:
            same = [p if p is not None and p.figure == figure else None for p in found]
            tables.append(_compared(name, runs, same))
    called = tuple(run.name for run in runs)
    return Comparison(called, tuple(_verdict(called, tables)), tuple(tables), tuple(apart))


def _verdict(runs: Sequence[str], tables: Sequence[Compared]) -> Iterator[str]:
    """Yield the protocols by which each run is clearly the best, and those without a winner."""
    for place, run in enumerate(runs):
        won = [table.name for table in tables if table.clear and table.best == place]
        if won:
            yield f"{run} is clearly the best by {listed(won)}."
    open_ = [table.name for table in tables if table.clear is False]
    if open_:
        yield f"By {listed(open_)}, no run is clearly the best."


def _apart(name: str, runs: Sequence[RunFacts], found: Sequence[Protocol | None]) -> str:
    figures = [
        f"{protocol.figure} for {run.name}"
        for run, protocol in zip(runs, found, strict=True)
        if protocol is not None
    ]
    return f"The main figure of {name} is {listed(figures)}: these cannot be compared."


def _compared(name: str, runs: Sequence[RunFacts], found: Sequence[Protocol | None]) -> Compared:
    first = next(protocol for protocol in found if protocol is not None)
    own = tuple(None if p is None else p.student for p in found)
    before = tuple(None if p is None else p.before for p in found)
    known = [score for score in own if score is not None]
    best = own.index(max(known, key=lambda score: score.value))
    drawn = [v for s in known for v in (s.value, s.low, s.high) if v is not None]
    margin = max(0.1 * (max(drawn) - min(drawn)), 0.5)
    told, better = _told(runs, found, best)
    chances = {p.chance_says for p in found if p is not None}
    return Compared(
        name=name,
        figure=first.figure,
        unit=first.unit,
        chance_says=chances.pop() if len(chances) == 1 else "",
        scores=own,
        before=before,
        best=best,
        told=told,
        clear=all(better) if better else None,
        span=(max(0.0, min(drawn) - margin), max(drawn) + margin),
    )


def _told(
    runs: Sequence[RunFacts], found: Sequence[Protocol | None], best: int
) -> tuple[tuple[str, ...], list[bool]]:
    """Return a sentence that compares the best run with each other one, and whether it is better.

    A last sentence says where the runs were not scored with the same options.
    """
    first, highest = runs[best], found[best]
    told, better = [], []
    others = [(run, p) for run, p in zip(runs, found, strict=True) if p and p is not highest]
    for run, protocol in others:
        pair = _pair(first, run, protocol)
        if isinstance(pair, Paired):
            told.append(compared_in_words(first.name, run.name, pair))
            better.append(pair.settled)
            continue
        apart = highest is not None and protocol.student.overlaps(highest.student) is False
        better.append(apart and pair.intervals)
        told.append(
            f"The intervals of {first.name} and {run.name} do not overlap; {pair.why}."
            if better[-1]
            else f"Whether {first.name} is better than {run.name} is not settled: {pair.why}."
        )
    if highest is not None and any(p.options != highest.options for _, p in others):
        told.append("The runs were not scored with the same options of the protocol: see below.")
    return tuple(told), better


@dataclass(frozen=True)
class _Unpaired:
    """Why two runs are not compared image by image, and whether their intervals may be."""

    why: str
    intervals: bool


def _pair(first: RunFacts, second: RunFacts, protocol: Protocol) -> Paired | _Unpaired:
    """Compare two runs image by image, on the images on which both were scored."""
    name, seed = protocol.name, first.config["seed"]
    splits = [run.splits[run.metrics[name]["split"]].digest for run in (first, second)]
    ours, theirs = first.per_image.get(name), second.per_image.get(name)
    if ours is None or theirs is None or not all(STUDENT in s.values for s in (ours, theirs)):
        if len(set(splits)) > 1:
            return _Unpaired(OTHERS, intervals=False)
        return _Unpaired("results for each image are not there for both", intervals=True)
    a, b = ours.values[STUDENT], theirs.values[STUDENT]
    if len(set(splits)) == 1 and tuple(ours.names) == tuple(theirs.names):
        return paired(a, b, seed=seed, classes=ours.classes)
    here, there = ours.common(theirs)
    if len(here) < FEWEST_COMMON:
        return _Unpaired(OTHERS, intervals=False)
    classes = [ours.classes[place] for place in here] if ours.classes else ()
    return paired(a[here], b[there], seed=seed, classes=classes)


def overlaid(runs: Sequence[RunFacts]) -> Overlaid | Absent:
    """Return the curves of all runs that trained: one chart per figure, one line per run."""
    trained = [(place, run) for place, run in enumerate(runs) if run.curves]
    if not trained:
        return Absent("none of the runs trained")
    columns = list(dict.fromkeys(column for _, run in trained for column in run.curves[0]))
    return Overlaid(
        charts=tuple(_overlaid(c, trained) for c in _single(charts_of(columns))),
        terms=tuple(_overlaid(c, trained) for c in term_charts_of(columns)),
        keys=keys([Line(run.name, (), (), place) for place, run in trained]),
        without=tuple(run.name for run in runs if not run.curves),
    )


def _single(charts: Sequence[Chart]) -> list[Chart]:
    """Return one chart per column, since each chart has one line per run."""
    return [
        replace(
            chart,
            name=f"{chart.name}-{place}",
            title=f"{chart.title}: {label}" if label else chart.title,
            columns={column: label},
        )
        for chart in charts
        for place, (column, label) in enumerate(chart.columns.items())
    ]


def _overlaid(chart: Chart, runs: Sequence[tuple[int, RunFacts]]) -> Drawn:
    column = next(iter(chart.columns))
    lines = [
        Line(run.name, values_of(run, "epoch"), values_of(run, column, chart.scale), place)
        for place, run in runs
        if column in run.curves[0]
    ]
    kind = "overlaid-term" if chart.small else "overlaid"
    return replace(draw(f"{kind}-{chart.name}", chart, lines), keys=())


def differences(runs: Sequence[RunFacts]) -> Differences | Absent:
    """Return the settings that differ between runs, defaults and overrides included."""
    settings = [_settings(run, runs) for run in runs]
    keys = dict.fromkeys(key for found in settings for key in found if key not in OWN)
    rows = [Row(key, tuple(_setting(found, key) for found in settings)) for key in keys]
    differing = tuple(row for row in rows if row.differs)
    if not differing:
        return Absent("the runs have the same config")
    return Differences(
        runs=tuple(run.name for run in runs),
        rows=differing,
        same=len(rows) - len(differing),
    )


def _settings(run: RunFacts, runs: Sequence[RunFacts]) -> dict[str, Any]:
    """Return a run's settings by dotted key.

    If another run lacks an entry, only the entry's kind is listed.
    """
    result = flat(run.config)
    for section in ("features", "objective", "evaluate"):
        entries = [other.config[section] or {} for other in runs]
        for name, entry in (run.config[section] or {}).items():
            if not all(name in others for others in entries):
                prefix = f"{section}.{name}."
                result = {k: v for k, v in result.items() if not k.startswith(prefix)}
                result[f"{section}.{name}"] = entry.get("kind", name)
    return result


def _setting(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return NOTHING
    value = settings[key]
    return "none" if value is None else str(value)
