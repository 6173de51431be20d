"""Draw the figures of the documentation from the code that they show, and from its tables.

    python docs/figures/draw.py [FOLDER]

Grey text and filled shapes are readable on light and dark pages.
"""

import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import torch
from PIL import Image

from pipeline.base.yaml_file import read_yaml
from pipeline.datasets.digits import DigitsOptions
from pipeline.evaluation.robustness import RobustnessOptions
from pipeline.loading.epoch_plan import plan_epoch
from pipeline.shards.manifest import sample_key

GREY, SLATE, WHITE = "#808080", "#666666", "#ffffff"
LETTERS = "ABCD"  # in addition to colours, for colour-blind readers
DASHES = ("", "6 3", "2 3")
READERS = ("#3b6ea5", "#a0522d", "#2e7d5b", "#7b4fa3")
TARS, BATCH, RANKS, WORKERS, SEED = (8, 8, 8, 8, 8, 5), 3, 2, 2, 5
SAMPLES = 512  # per tar, as in the default experiment
CELL, GAP, LEFT = 13, 8, 76
ROOT = Path(__file__).parents[2]
SHADES = 5
# What the curves of the study show, and how: the names in its tables, and shorter ones.
CURVES = {
    "cifar10": (
        "CIFAR-10, without a teacher",
        {
            "vicreg + hog and whitened scattering regressed, 15 relative, rate 1.2e-2": (
                "VICReg, gradients and scattering regressed"
            ),
            "vicreg + hog, 50, and whitened scattering, 150, on standardised h, both, unbiased, "
            "rate 1.2e-2": "VICReg, dependence on both",
            "vicreg, rate 4e-3": "VICReg",
        },
    ),
    "photographs-64": (
        "Photographs at 64 px, from scratch",
        {
            "labels, rate 4e-3": "with labels",
            "effnet by affinity, hog and whitened log scattering regressed, relative, rate 4e-3": (
                "from a teacher, gradients and scattering"
            ),
            "effnet by affinity, rate 4e-3": "from a teacher",
        },
    ),
}
WIDE, HIGH, FOOT, TOP = 300, 200, 226, 80  # of a chart's axes; y of its zero; its highest value


def canvas(width: int, height: int, title: str) -> ET.Element:
    """Return an empty drawing; screen readers read its title."""
    svg = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "role": "img",
            "font-family": "sans-serif",
            "font-size": "12",
        },
    )
    ET.SubElement(svg, "title").text = title
    return svg


def box(svg: ET.Element, x: float, y: float, width: float, height: float, **style: str) -> None:
    """Add a rectangle."""
    place = {"x": f"{x:g}", "y": f"{y:g}", "width": f"{width:g}", "height": f"{height:g}"}
    ET.SubElement(svg, "rect", {**place, "rx": "2", **style})


def write(
    svg: ET.Element, x: float, y: float, text: str, *, fill: str = GREY, anchor: str = "start"
) -> None:
    """Add a line of text."""
    place = {"x": f"{x:g}", "y": f"{y:g}", "fill": fill, "text-anchor": anchor}
    ET.SubElement(svg, "text", place).text = text


def line(
    svg: ET.Element, x: float, y: float, to_x: float, to_y: float, *, width: str = "1.5"
) -> None:
    """Add a straight line."""
    ends = {"x1": f"{x:g}", "y1": f"{y:g}", "x2": f"{to_x:g}", "y2": f"{to_y:g}"}
    ET.SubElement(svg, "line", {**ends, "stroke": GREY, "stroke-width": width})


def plan() -> ET.Element:
    """Draw which worker reads which rows in two epochs, according to `plan_epoch`."""
    svg = canvas(730, 232, "Which process and worker reads which rows of which tar, in two epochs")
    for epoch in range(2):
        _epoch(svg, epoch, top=26 + 76 * epoch)
    for number, colour in enumerate(READERS):
        rank, worker = divmod(number, WORKERS)
        x, y = LEFT + 190 * worker, 190 + 22 * rank
        box(svg, x, y - 12, CELL, 16, fill=colour)
        write(svg, x + CELL / 2, y, LETTERS[number], fill=WHITE, anchor="middle")
        write(svg, x + 20, y, f"process {rank}, worker {worker}")
    box(svg, LEFT + 380, 179, CELL, CELL, fill="none", stroke=GREY)
    write(svg, LEFT + 400, 190, "left out, in this epoch")
    return svg


def _epoch(svg: ET.Element, epoch: int, top: float) -> None:
    plans = plan_epoch(
        TARS, seed=SEED, epoch=epoch, batch_size=BATCH, world_size=RANKS, workers=WORKERS
    )
    reader: dict[tuple[int, int], int] = {}
    for rank, workers in enumerate(plans):
        for worker, segments in enumerate(workers):
            for part in segments:
                rows = range(part.first, part.last)
                reader |= {(part.shard, row): rank * WORKERS + worker for row in rows}
    order = list(dict.fromkeys(tar for tar, _ in reader))
    x = float(LEFT)
    write(svg, 0, top + 14, f"epoch {epoch + 1}")
    for tar in [*order, *sorted(set(range(len(TARS))) - set(order))]:
        write(svg, x, top - 7, f"tar {tar}")
        for row in range(TARS[tar]):
            number = reader.get((tar, row))
            style = {"fill": "none", "stroke": GREY}
            if number is not None:
                style = {"fill": READERS[number]}
            box(svg, x, top, CELL - 1, 20, **style)
            if number is not None:
                write(svg, x + CELL / 2, top + 14, LETTERS[number], fill=WHITE, anchor="middle")
            x += CELL
        x += GAP


def alignment() -> ET.Element:
    """Draw where the parts of one sample are stored."""
    svg = canvas(730, 190, "One row of a tar and the same row of each feature make one sample")
    chosen, shown = 2, 4
    columns: list[tuple[str, Callable[[int], str]]] = [
        ("train/000001.tar", lambda row: f"{sample_key(1, row)}.png"),
        ("scattering/train, chunk 1", lambda row: f"row {SAMPLES + row}"),
        ("hog/train, chunk 1", lambda row: f"row {SAMPLES + row}"),
    ]
    for place, (title, named) in enumerate(columns):
        x = 190 * place
        write(svg, x, 14, title)
        for row in range(shown):
            y = 24 + 30 * row
            fill = READERS[0] if row == chosen else SLATE
            box(svg, x, y, 160, 24, fill=fill)
            write(svg, x + 80, y + 16, named(row), fill=WHITE, anchor="middle")
        write(svg, x + 80, 162, "...", anchor="middle")
    y = 24 + 30 * chosen + 12
    for x in (160, 350, 540):
        line(svg, x, y, x + 30, y)
    box(svg, 570, y - 30, 156, 60, fill=READERS[0])
    for number, text in enumerate(
        ("one sample of a batch:", "image, label, index,", "two targets")
    ):
        write(svg, 648, y - 12 + 17 * number, text, fill=WHITE, anchor="middle")
    write(svg, 0, 186, f"Sample {SAMPLES + chosen} of the training images, {SAMPLES} per tar.")
    return svg


def quick_start() -> ET.Element:
    """Draw images of the quick start, and the scores in the table of `docs/results.md`."""
    svg = canvas(730, 288, "Images of the quick start, and the scores of student and controls")
    options = read_yaml(ROOT / "configs" / "robust_digits.yaml")["dataset"]["source"]
    source = DigitsOptions.model_validate(options).open()
    items = source.splits["train"]
    for number, change in enumerate([None, *RobustnessOptions().transformations]):
        pixels = np.array(Image.open(io.BytesIO(source.read(items[number]).data)))
        if change is not None:
            views = torch.from_numpy(pixels)[None, None]
            pixels = change(views, first=number, seed=0)[0, 0].numpy()
        name = "unchanged" if change is None else change.name.replace("_", " ")
        _picture(svg, pixels, 81.5 * number, 0.0, 78.0)
        write(svg, 81.5 * number + 39, 94, name, anchor="middle")
    for column, title in enumerate(("linear classifier, % right", "nearest neighbours, % right")):
        write(svg, 214 + 264 * column, 122, title)
    for row, (name, *values) in enumerate(_scores()):
        y = 132 + 31 * row
        write(svg, 204, y + 15, name, anchor="end")
        for column, value in enumerate(values):
            x = 214 + 264 * column
            box(svg, x, y, 2 * value, 21, fill=SLATE if row else READERS[0])
            write(svg, x + 2 * value + 6, y + 15, f"{value:.1f}")
    return svg


def _picture(
    svg: ET.Element, pixels: "np.ndarray[Any, Any]", x: float, y: float, side: float
) -> None:
    """Add a grey image (S, S), uint8, in a few shades."""
    size = len(pixels)
    box(svg, x, y, side, side, fill="#000000")
    move = f"translate({x:g} {y:g}) scale({side / size:.4g})"
    picture = ET.SubElement(svg, "g", {"transform": move})
    shades = np.rint(pixels / 255 * SHADES)
    for shade in range(1, SHADES + 1):
        squares = "".join(f"M{c} {r}h1v1h-1z" for r, c in np.argwhere(shades == shade).tolist())
        grey = f"#{round(255 * shade / SHADES):02x}" + 2 * f"{round(255 * shade / SHADES):02x}"
        if squares:
            ET.SubElement(picture, "path", {"d": squares, "fill": grey})


def curves() -> ET.Element:
    """Draw the curves of the study of `docs/results.md`: accuracy of the probe against steps."""
    svg = canvas(730, 318, "The probe beside the training, in percent right, against steps")
    for number, (name, (title, shown)) in enumerate(CURVES.items()):
        left = 34 + 370 * number
        write(svg, left, 14, title)
        steps, rows = _curves(name)
        scale = WIDE / steps[-1]
        for share in range(0, TOP + 1, 20):
            y = FOOT - HIGH * share / TOP
            line(svg, left, y, left + WIDE, y, width="0.5")
            write(svg, left - 6, y + 4, str(share), anchor="end")
        for step, anchor in ((steps[-1] // 2, "middle"), (steps[-1], "end")):
            write(svg, left + scale * step, FOOT + 18, f"{step:,} steps", anchor=anchor)
        known = [name for name in shown if name in rows]
        for place, row in enumerate(known):
            xs = [left + scale * step for step in steps]
            ys = [FOOT - HIGH * value / TOP for value in rows[row]]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
            style = {"fill": "none", "stroke": READERS[place], "stroke-width": "2"}
            dash = {"stroke-dasharray": DASHES[place]} if DASHES[place] else {}
            ET.SubElement(svg, "polyline", {"points": path, **style, **dash})
            y = FOOT + 48 + 20 * place
            ends = {"points": f"{left},{y - 4} {left + 34},{y - 4}"}
            ET.SubElement(svg, "polyline", {**ends, **style, **dash})
            write(svg, left + 42, y, shown[row])
    return svg


def _curves(name: str) -> tuple[list[int], dict[str, list[float]]]:
    """Return steps, and the curve of each candidate, from a setup's table of the longest runs."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    own = text.partition(f"<!-- study {name} -->")[2].partition(f"<!-- end of study {name} -->")[0]
    head, *rows = own.rpartition("\n| steps | ")[2].strip().splitlines()
    cells = {row[0]: [float(cell) for cell in row[1:]] for row in map(_cells, rows[1:])}
    return [int(step.replace(",", "")) for step in _cells(head)], cells


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def _scores() -> Iterator[tuple[str, float, float]]:
    """Yield the rows of the table: what is scored, by linear and by k-NN, in percent."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    table = text.partition("<!-- quick start -->")[2].partition("<!-- end of quick start -->")[0]
    for name, linear, knn in re.findall(r"^\| (.+?) \|.*?\| ([\d.]+).*?\| ([\d.]+)", table, re.M):
        yield name, float(linear), float(knn)


FIGURES: dict[str, Callable[[], ET.Element]] = {
    "plan.svg": plan,
    "alignment.svg": alignment,
    "quick-start.svg": quick_start,
    "curves.svg": curves,
}


def main(arguments: Iterable[str]) -> None:
    """Write all figures into the given folder, by default that of this file."""
    folder = Path(next(iter(arguments), Path(__file__).parent))
    for name, draw in FIGURES.items():
        svg = draw()
        ET.indent(svg)
        (folder / name).write_text(ET.tostring(svg, encoding="unicode") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
