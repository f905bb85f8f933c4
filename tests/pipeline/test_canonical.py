"""Canonical JSON and its digests."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.fingerprint import digest

number = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | number | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(st.dictionaries(st.text(), plain, max_size=5))
def test_order_of_keys_is_no_meaning(value: dict[str, object]) -> None:
    assert digest(dict(reversed(value.items()))) == digest(value)


@given(plain, plain)
def test_different_values_hash_differently(one: object, other: object) -> None:
    assert (digest(one) == digest(other)) == (repr_of(one) == repr_of(other))


def repr_of(value: object) -> object:
    """A form that keeps apart what JSON keeps apart: 1, 1.0 and True."""
    if isinstance(value, dict):
        return {key: repr_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [repr_of(item) for item in value]
    return (type(value).__name__, 0.0 if value == 0 and isinstance(value, float) else value)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1}, Path("x"), b"x", {1: 2}, object()])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError), match="cannot be hashed canonically"):
        digest({"key": value})
