"""How numbers are written in the report: the same in HTML, Markdown and tooltips."""

from __future__ import annotations

from rectab.sweep.statistics import Estimate
from rectab.tables.budget import format_bytes

__all__ = ["difference", "duration", "number", "rate", "share", "size", "with_interval"]

MISSING = "–"


def number(value: float | None, digits: int = 4) -> str:
    """Fixed digits, with a true minus sign; a dash for None."""
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def with_interval(value: Estimate | None, digits: int = 4) -> str:
    """``0.7912 ± 0.0004``; without the interval if there is a single seed."""
    if value is None:
        return MISSING
    half = "" if value.half_width is None else f" ± {value.half_width:.{digits}f}"
    return number(value.mean, digits) + half


def difference(value: Estimate | None, digits: int = 4) -> str:
    """Like :func:`with_interval`, always with a sign."""
    if value is None:
        return MISSING
    return ("+" if value.mean >= 0 else "") + with_interval(value, digits)


def size(value: float | None) -> str:
    return MISSING if value is None else format_bytes(value)


def share(value: float | None) -> str:
    """Three digits: ``9.99 %``; ``100 %``."""
    return MISSING if value is None else f"{100 * value:.3g} %"


def duration(seconds: float | None) -> str:
    """``14.2 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds is None:
        return MISSING
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def rate(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"
