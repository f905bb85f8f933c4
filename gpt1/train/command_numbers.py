"""Numbers on a command line: argparse refuses those that cannot be meant, with status 2."""

from __future__ import annotations

import argparse
import math


def positive_int(text: str) -> int:
    """A whole number of at least 1. argparse.ArgumentTypeError for anything else."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return number


def positive_float(text: str) -> float:
    """A finite number above 0. argparse.ArgumentTypeError for anything else."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number above 0")
    return number


def positive_ints(text: str) -> list[int]:
    """Whole numbers of at least 1, with commas between them. argparse.ArgumentTypeError for
    anything else.
    """
    return [positive_int(part) for part in text.split(",")]
