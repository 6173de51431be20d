"""Shared by the benchmarks whose results are tables of a page: Markdown tables, and their place."""

from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; nothing without rows."""
    if not rows:
        return ""
    return "\n".join([_line(head), "|" + "---|" * len(head), *map(_line, rows)]) + "\n"


def write(path: Path, name: str, text: str) -> None:
    """Replace what a Markdown file has between the marks of that name."""
    content = path.read_text(encoding="utf-8")
    opening, closing = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    if opening not in content or closing not in content:
        raise SystemExit(f"{path} has no lines {opening.strip()} and {closing.strip()}.")
    before, _, rest = content.partition(opening)
    after = rest.partition(closing)[2]
    path.write_text(f"{before}{opening}\n{text}\n{closing}{after}", encoding="utf-8")


def _line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)
