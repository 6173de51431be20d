"""The results as Markdown tables: scores on test images, and all candidates of the search."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.candidates import ALWAYS
from benchmarks.study.runs import Line, read

PROTOCOLS = ("linear", "knn")


def chosen(searched: Sequence[Line]) -> list[str]:
    """Return the best candidate of each group by the linear probe, and the published ones."""
    best: dict[str, Line] = {}
    for line in searched:
        if line["group"] not in best or line["linear"] > best[line["group"]]["linear"]:
            best[line["group"]] = line
    if not best:
        raise SystemExit("There is nothing to choose from: run `search` first.")
    found = {line["name"] for line in searched}
    names = [line["name"] for line in best.values()]
    return list(dict.fromkeys([*names, *(name for name in ALWAYS if name in found)]))


def results(confirmed: Sequence[Line]) -> str:
    """Return one row per objective: mean and standard deviation over seeds, on test images."""
    rows = ["| | objective | linear | k-NN | seeds |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(line["name"] for line in confirmed):
        lines = [line for line in confirmed if line["name"] == name]
        rows.append(_row(lines[0]["group"], name, lines))
    return "\n".join(rows) + "\n"


def tried(searched: Sequence[Line]) -> str:
    """Return all candidates by group, best first: one seed, on validation images."""
    rows = ["| | objective | linear | k-NN |", "|---|---|---|---|"]
    for group in dict.fromkeys(line["group"] for line in searched):
        members = [line for line in searched if line["group"] == group]
        rows += [
            f"| {group} | {line['name']} | {line['linear']:.1f} | {line['knn']:.1f} |"
            for line in sorted(members, key=lambda line: -line["linear"])
        ]
    return "\n".join(rows) + "\n"


def write(path: Path, *, searched: Path, confirmed: Path) -> None:
    """Replace both tables between the marks of a Markdown file."""
    tables = {"results": results(read(confirmed)), "search": tried(read(searched))}
    text = path.read_text(encoding="utf-8")
    for mark, content in tables.items():
        opening, closing = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->\n"
        if opening not in text or closing not in text:
            raise SystemExit(f"{path} has no lines {opening.strip()} and {closing.strip()}.")
        before, _, rest = text.partition(opening)
        after = rest.partition(closing)[2]
        text = f"{before}{opening}\n{content}\n{closing}{after}"
    path.write_text(text, encoding="utf-8")


def _row(group: str, name: str, lines: Sequence[Line]) -> str:
    cells = [_mean([line[protocol] for line in lines]) for protocol in PROTOCOLS]
    return f"| {group} | {name} | {' | '.join(cells)} | {len(lines)} |"


def _mean(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean
