"""Numbers as people read them."""

from __future__ import annotations

from typing import Any

MISSING = "–"
ROUNDS_UP = 0.9995  # of a unit, which three digits show as 1


def number(value: Any) -> str:
    """Whole numbers with groups of three, others with four significant digits: 1,234,567;
    183.4; 0.01235.
    """
    if value is None:
        return MISSING
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or (abs(value) >= 1000 and abs(value) < 1e15):
        return f"{round(value):,}"
    return f"{value:.4g}"


def counted(value: int, one: str, many: str = "") -> str:
    """A number of things: 1 book, 1,234 books, 2 copies."""
    return f"{number(value)} {one if value == 1 else many or f'{one}s'}"


def short(value: Any) -> str:
    """Large counts in thousands or millions: 9.8 M, 43.1 k, 812."""
    if value is None:
        return MISSING
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        least = 10 * limit if unit == " k" else ROUNDS_UP * limit
        if abs(value) >= least:
            return f"{value / limit:.3g}{unit}"
    return number(value)


def size(value: int) -> str:
    """Bytes, in thousands: 812 B, 4.2 kB, 1.31 GB."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= ROUNDS_UP * limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value} B"


def points(value: Any) -> str:
    """A score in per cent, with one decimal."""
    return MISSING if value is None else f"{value:.1f}"


def signed(value: Any) -> str:
    """A difference with its sign, one decimal."""
    return MISSING if value is None else f"{value:+.1f}"


def span(seconds: float | None) -> str:
    """A time: 0.4s, 44.6s, 2m 43s, 3h 05m, 12.5 days."""
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02}s"
    if minutes < 48 * 60:
        return f"{minutes // 60}h {minutes % 60:02}m"
    return f"{seconds / 86400:.1f} days"


def share(value: float) -> str:
    """A share as people say it: `1/107`, `1/7.41 million`, `98 %`, `1.2 times`."""
    if value < 1e-6:
        millions = 1e-6 / value
        return f"1/{millions:,.0f} million" if millions >= 1000 else f"1/{millions:.3g} million"
    if value < 0.1:
        return f"1/{round(1 / value):,}"
    return f"{100 * value:.0f} %" if value < 1.005 else f"{value:.3g} times"
