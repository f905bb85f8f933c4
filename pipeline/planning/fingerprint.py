"""Canonical hashes: equal meaning gives equal bytes, and what has no canonical form raises."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

PLAIN = {type(None), bool, int, str}
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
FINGERPRINT_LENGTH = 24  # hexadecimal digits: 96 bits, short enough for a folder's name


def canonical(value: Any) -> Any:
    """`value` as plain JSON data with one form for each meaning; TypeError or ValueError for
    what has none (paths, sets, NaN).
    """
    if type(value) in PLAIN or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"cannot be hashed canonically: {value!r} is not a finite number")
        return 0.0 if value == 0 else value
    if isinstance(value, (dict, Mapping)):  # the first is asked quickly
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"cannot be hashed canonically: key {key!r} is not a string")
        return {
            key: item if type(item := value[key]) in PLAIN else canonical(item)
            for key in sorted(value)
        }
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    raise TypeError(f"cannot be hashed canonically: {value!r} is a {type(value).__name__}")


def digest(value: Any) -> str:
    """The sha256 of the canonical form of `value`, in hexadecimal."""
    return hashlib.sha256(_JSON.encode(canonical(value)).encode()).hexdigest()


def fingerprint(value: Any) -> str:
    """The shortened `digest` that names an artifact's folder."""
    return digest(value)[:FINGERPRINT_LENGTH]
