"""Line charts as SVG that takes the page's ink and colours, so that it suits light and dark."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

COLOURS = 10  # of the page's palette, var(--c0) to var(--c9)
_INK, _FAINT = "#0a0b0c", "#0a0b0d"
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
_MARKERS = "os^DvP*X<>"
_MARKED_POINTS = 30
SIZE = (5.2, 3.2)  # inches: their ratio, and that of the letters


@dataclass(frozen=True)
class Line:
    """One line; gaps are NaN. `colour` is a place in the page's palette."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int


def line_chart(
    name: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str = "",
    log: bool = False,
    from_zero: bool = False,
    mark: float | None = None,
    always_named: bool = False,
) -> Markup:
    """Return a chart as SVG; `name` must be the page's only one of its kind.

    Lines differ by colour, dash and marker. `mark` is the x of a vertical line. A single line
    has a legend only if it is `always_named`.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context(_style(name)):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for line in lines:
            few = len(line.x) <= _MARKED_POINTS
            axes.plot(
                line.x,
                line.y,
                label=line.label,
                color=_placeholder(line.colour),
                linestyle=_DASHES[line.colour % len(_DASHES)],
                marker=_MARKERS[line.colour % len(_MARKERS)] if few else None,
                markersize=4,
                linewidth=1.8,
            )
        if mark is not None:
            axes.axvline(mark, color=_INK, linewidth=1, linestyle=":", zorder=0)
        if log:
            axes.set_yscale("log")
        elif from_zero:
            known = [value for line in lines for value in line.y if value == value]
            axes.set_ylim(0, 1.08 * max(known, default=0) or 1)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, color=_FAINT, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1 or always_named:
            figure.legend(
                frameon=False,
                fontsize="small",
                loc="outside lower center",
                ncols=2 if len(lines) < 5 else 3,
            )
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(buffer.getvalue(), name)


def _style(name: str) -> dict[Any, Any]:
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(inked, _INK),
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 11,
    }


def _placeholder(colour: int) -> str:
    return f"#c0ffe{colour % COLOURS}"


def _for_page(svg: str, name: str) -> Markup:
    """Take the page's colours and font, and identifiers that no other figure has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = svg.replace(_INK, "currentColor").replace(_FAINT, "var(--line)")
    svg = re.sub(r"#c0ffe(\d)", r"var(--c\1)", svg)
    svg = re.sub(r'^<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg)
    return Markup(svg)  # noqa: S704 - matplotlib escapes its texts
