"""Hashes of numbers that stay the same for ever, on every machine: what decides the order of
training.
"""

from __future__ import annotations

import numpy as np

U64 = np.ndarray[tuple[int], np.dtype[np.uint64]]
_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


def splitmix64(values: U64) -> U64:
    """Steele, Lea & Flood's splitmix64 of each value (n,): one step of the generator whose state
    is that value.
    """
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(_STEP)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def hash64(keys: tuple[int, ...], values: U64) -> U64:
    """A hash of each value (n,) under some keys, for instance (seed, epoch)."""
    state = np.zeros(1, dtype=np.uint64)
    for key in keys:
        state = splitmix64(state ^ np.uint64(key & _MASK))
    return splitmix64(values ^ state)
