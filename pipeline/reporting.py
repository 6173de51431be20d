"""One self-contained HTML page about a run: how good it is, how it came about, from what."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
PROBE, KNN = "validation/probe_top1", "validation/knn_top1"
INK = "#888888"  # readable on white and on black

Curves = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Report:
    """What the page tells. `metrics` are the protocols' files by name, `features` the stored."""

    name: str
    metrics: Mapping[str, Mapping[str, Any]]
    curves: Curves
    features: Sequence[Mapping[str, str]]
    config: str


def read_curves(path: Path) -> Curves:
    """Read the rows that training wrote, one an epoch."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def render(report: Report) -> str:
    """Return the page."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    protocols = [_protocol(n, m) for n, m in report.metrics.items() if "controls" in m]
    training = report.metrics.get("training", {})
    page: str = environment.get_template("report.html.j2").render(
        report=report,
        protocols=protocols,
        training=training,
        plots=[_plot(report.curves, title, names) for title, names in _panels(report.curves)],
    )
    return page


def _protocol(name: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a metrics file out as a table: one row a subject, one column a number."""
    subjects = {"student": metrics, **metrics["controls"]}
    main = metrics["main"]
    columns = [
        key for key, value in metrics.items() if isinstance(value, int | float) and key != "seed"
    ]
    nested = [(k, i) for k, v in metrics.items() if k.startswith("with_") for i in v]
    rows = [
        {
            "name": subject,
            "cells": [_number(values.get(column)) for column in columns]
            + [_number(values.get(outer, {}).get(inner)) for outer, inner in nested],
        }
        for subject, values in subjects.items()
    ]
    heads = [c.replace("_", " ") for c in columns] + [
        f"{outer.removeprefix('with_')}: {inner.replace('_', ' ')}" for outer, inner in nested
    ]
    return {
        "name": name,
        "split": metrics["split"],
        "images": metrics["images"],
        "selection": metrics["checkpoint"]["selection"],
        "main": main.replace("_", " ") if f"{main}_low" in metrics else None,
        "heads": heads,
        "rows": rows,
    }


def _number(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _panels(curves: Curves) -> list[tuple[str, list[str]]]:
    names = [name for name in (curves[0] if curves else {}) if name not in ("epoch", "step")]
    terms = [name for name in names if name.startswith("train/term/")]
    panels = [
        ("Objective", ["train/objective", "validation/objective"]),
        ("Terms, training", terms),
        ("Online probes, top-1 on validation (%)", [PROBE, KNN]),
        ("Learning rate", ["learning_rate"]),
        ("Images a second", ["images_per_second"]),
        ("Share of time waiting for data", ["wait_share"]),
    ]
    present = [(title, [n for n in wanted if n in names]) for title, wanted in panels]
    return [(title, found) for title, found in present if found]


def _plot(curves: Curves, title: str, names: Sequence[str]) -> dict[str, Any]:
    """Draw one panel as SVG, with a sentence for those who cannot see it."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    style: dict[Any, str] = {
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "svg.fonttype": "none",
        "svg.hashsalt": "mvmr",
    }
    with rc_context(style):
        figure = Figure(figsize=(5, 3), layout="constrained")
        axes = figure.subplots()
        epochs = [int(row["epoch"]) for row in curves]
        for name in names:
            values = [float(row[name]) if row.get(name) else float("nan") for row in curves]
            axes.plot(epochs, values, label=name, marker="." if len(epochs) < 30 else None)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(names) > 1:
            axes.legend(frameon=False, fontsize="small")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    first, last = curves[0], curves[-1]
    spoken = ", ".join(f"{n} from {first.get(n)} to {last.get(n)}" for n in names)
    return {"title": title, "svg": Markup(svg[svg.index("<svg") :]), "spoken": spoken}  # noqa: S704
