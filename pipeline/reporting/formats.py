"""How a page writes numbers: few digits, thousands separated, no line break before a unit."""

import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_BOUND = "\N{NO-BREAK SPACE}"


def count(value: float) -> str:
    """Return a whole number with its thousands separated: 45,000."""
    return f"{value:,.0f}"


def millions(value: float) -> str:
    """Return a large count in words: 312, 4.5 thousand, 0.307 million."""
    if value < 1000:
        return f"{value:.0f}"
    thousand = value < 1e5
    return _bound(f"{value / 1e3:.3g} thousand" if thousand else f"{value / 1e6:,.3g} million")


def number(value: float | None) -> str:
    """Return four significant digits, with a power of ten for very small and large numbers."""
    if value is None or math.isnan(value):
        return "–"  # noqa: RUF001
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.4g}" if abs(value) < 1e3 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPTS)
    return _bound(f"{mantissa} × 10{power}")  # noqa: RUF001


def times(factor: float) -> str:
    """Return a factor with two digits below 10, else as a whole number: 1, 5.1, 61, 1,240."""
    return f"{factor:,.0f}" if factor >= 10 else f"{factor:.2g}"


def percent(value: float | None) -> str:
    """Return a value in percent with one decimal, without the percent sign."""
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"  # noqa: RUF001


def size(value: float) -> str:
    """Return a size in bytes in the largest unit that fits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return _bound(f"{value:.3g} {unit}")
        value /= 1000
    return _bound(f"{value:,.3g} TB")


def duration(seconds: float) -> str:
    """Return seconds in everyday units: 0.8 s, 76 s, 12 min 5 s, 3 h 20 min."""
    if seconds < 10:
        return _bound(f"{seconds:.2g} s")
    if seconds < 100:
        return _bound(f"{seconds:.0f} s")
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return _bound(f"{minutes} min {rest} s")
    hours, minutes = divmod(minutes, 60)
    return _bound(f"{hours:,} h {minutes} min")


def unbroken(text: str) -> str:
    """Return a sentence in which no line breaks between a number and its %."""
    return text.replace(" %", f"{_BOUND}%")


def _bound(text: str) -> str:
    return text.replace(" ", _BOUND)
