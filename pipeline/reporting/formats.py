"""How numbers are written on a page: few digits, thousands apart, with their unit."""

import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def count(value: float) -> str:
    """Return a whole number with its thousands apart: 45,000."""
    return f"{value:,.0f}"


def millions(value: float) -> str:
    """Return a large count in words: 312, 4.5 thousand, 0.307 million."""
    if value < 1000:
        return f"{value:.0f}"
    return f"{value / 1e3:.3g} thousand" if value < 1e5 else f"{value / 1e6:,.3g} million"


def number(value: float | None) -> str:
    """Return four significant digits; very small and very large ones by a power of ten."""
    if value is None or math.isnan(value):
        return "–"  # noqa: RUF001
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.4g}" if abs(value) < 1e3 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"  # noqa: RUF001


def percent(value: float | None) -> str:
    """Return a percentage, given as such, with one digit, without its sign."""
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"  # noqa: RUF001


def size(value: float) -> str:
    """Return bytes in the largest fitting unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB"


def duration(seconds: float) -> str:
    """Return seconds as people say them: 0.8 s, 76 s, 12 min 5 s, 3 h 20 min."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def word(name: str) -> str:
    """Return a key of a file as people read it."""
    return name.replace("_", " ")
