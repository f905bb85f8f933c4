"""Numbers as people read them."""

from __future__ import annotations

from typing import Any

MISSING = "–"


def number(value: Any) -> str:
    """Whole numbers with thin groups of three, others with four significant digits: 1,234,567; 183.4; 0.01235."""
    if value is None:
        return MISSING
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or (abs(value) >= 1000 and abs(value) < 1e15):
        return f"{round(value):,}"
    return f"{value:.4g}"


def short(value: Any) -> str:
    """Large counts in thousands or millions: 9.8 M, 43.1 k, 812."""
    if value is None:
        return MISSING
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit * 10 or (unit != " k" and abs(value) >= limit):
            return f"{value / limit:.3g}{unit}"
    return number(value)


def points(value: Any) -> str:
    """A score in per cent, with one decimal."""
    return MISSING if value is None else f"{value:.1f}"


def signed(value: Any) -> str:
    """A difference with its sign, one decimal."""
    return MISSING if value is None else f"{value:+.1f}"
