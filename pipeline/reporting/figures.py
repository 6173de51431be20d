"""Line charts as SVG that uses the page's ink and colours, in light and dark mode.

All charts of one size have their axes at the same place, so they line up. Units belong in the
caption and the keys beside the chart, which use the page's own font.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

COLOURS = 10  # in the page's palette, var(--c0) to var(--c9)
SIZE, SMALL_SIZE = (4.4, 2.6), (3.0, 1.9)  # inches; the page scales them, so only ratios matter
LETTERS = 11  # points
_INK, _FAINT = "#0a0b0c", "#0a0b0d"
_WIDTH = 1.8
# Lengths of dashes and gaps, in line widths.
_DASHES = ((), (3.7, 1.6), (1, 1.6), (6.4, 1.6, 1, 1.6), (6, 2), (3, 1, 1, 1, 1, 1))
_MARKED_POINTS = 30
_TINY = 0.01  # an axis that stays below this is labelled with powers of ten
# Room around the axes, in inches: for tick labels on the left, for the label of x below.
_LEFT, _RIGHT, _BELOW, _ABOVE = 0.66, 0.12, 0.5, 0.1


@dataclass(frozen=True)
class Line:
    """One line; gaps are NaN. `place` selects its colour in the page's palette and its dash."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    place: int


@dataclass(frozen=True)
class Key:
    """What a line looks like, for a legend: its place in the palette, and an SVG dash array."""

    label: str
    place: int
    dash: str


def keys(lines: Sequence[Line]) -> tuple[Key, ...]:
    """Return the legend of some lines."""
    return tuple(
        Key(line.label, line.place % COLOURS, " ".join(f"{2 * part:g}" for part in _dash(line)))
        for line in lines
    )


def line_chart(
    name: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    log: bool = False,
    from_zero: bool = False,
    small: bool = False,
    mark: float | None = None,
) -> Markup:
    """Return a chart as SVG; `name` must be unique on the page.

    `mark` is the x of a dotted vertical line.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_style(name)):
        figure = Figure(figsize=SMALL_SIZE if small else SIZE)
        width, height = figure.get_size_inches()
        axes = figure.add_axes(
            (
                _LEFT / width,
                _BELOW / height,
                1 - (_LEFT + _RIGHT) / width,
                1 - (_BELOW + _ABOVE) / height,
            )
        )
        for line in lines:
            axes.plot(line.x, line.y, **_look(line))
        if mark is not None:
            axes.axvline(mark, color=_INK, linewidth=1, linestyle=":", zorder=0)
        if log:
            axes.set_yscale("log")
        else:
            _scale(axes, from_zero=from_zero, most=max(_known(lines), default=0))
        _ticks(axes, log=log)
        axes.set_xlabel(x_label)
        axes.grid(visible=True, color=_FAINT, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(buffer.getvalue(), name)


def _look(line: Line) -> dict[str, Any]:
    return {
        "color": f"#c0ffe{line.place % COLOURS}",  # replaced by a colour of the page
        "linestyle": (0, _dash(line)) if _dash(line) else "-",
        "marker": "o" if len(line.x) <= _MARKED_POINTS else None,
        "markersize": 3.5,
        "linewidth": _WIDTH,
    }


def _dash(line: Line) -> tuple[float, ...]:
    return _DASHES[line.place % len(_DASHES)]


def _known(lines: Sequence[Line]) -> Iterator[float]:
    return (value for line in lines for value in line.y if value == value)


def _scale(axes: Any, *, from_zero: bool, most: float) -> None:
    if from_zero:
        axes.set_ylim(0, 1.08 * most or 1)


def _ticks(axes: Any, *, log: bool) -> None:
    """Set few ticks: whole numbers on x; on y full numbers, without an offset or common power."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if log:
        return
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    written = ScalarFormatter(useOffset=False)
    written.set_scientific(False)
    tiny = max(map(abs, axes.get_ylim())) < _TINY
    axes.yaxis.set_major_formatter(_tiny if tiny else written)


def _tiny(value: float, _: int) -> str:
    """Write 0.0002 as in experiment files: 2e-4."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}" if value else "0"


def _style(name: str) -> dict[Any, Any]:
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(inked, _INK),
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": LETTERS,
    }


def _for_page(svg: str, name: str) -> Markup:
    """Use the page's colours and font, and identifiers that are unique on the page."""
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
