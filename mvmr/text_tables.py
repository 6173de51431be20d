"""Tables as plain text and as HTML, for what shows itself in a console or a notebook."""

from collections.abc import Sequence
from html import escape

Rows = Sequence[Sequence[str]]


def text_table(rows: Rows, *, title: str = "") -> str:
    """Return rows of equally many cells, the first of which are heads, aligned by column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join([*filter(None, [title]), *lines])


def html_table(rows: Rows, *, title: str = "") -> str:
    """Return the same as HTML."""
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows[1:]
    )
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return f"<table>{caption}<tr>{heads}</tr>{body}</table>"
