"""n-gram perplexities against counts done by hand."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from gpt1.data import ngram
from gpt1.data.ngram import baseline


def test_against_a_plain_count() -> None:
    generator = np.random.default_rng(0)
    train = [generator.integers(0, 12, size).astype(np.uint16) for size in (300, 50, 1)]
    held_out = [generator.integers(0, 15, size).astype(np.uint16) for size in (80, 40)]
    found = baseline(train, held_out, 15, 10_000)
    assert found is not None
    singles = Counter(int(word) for ids in train for word in ids)
    pairs = Counter((int(a), int(b)) for ids in train for a, b in pairwise(ids))
    heads = Counter(pair[0] for pair in pairs.elements())
    followers = Counter(pair[0] for pair in pairs)

    def single(word: int) -> float:
        return (singles[word] + 1) / (351 + 15)

    def double(head: int, word: int) -> float:
        if not followers[head]:
            return single(word)
        return (pairs[head, word] + followers[head] * single(word)) / (heads[head] + followers[head])

    wanted = [(int(a), int(b)) for ids in held_out for a, b in pairwise(ids)]
    assert found.targets == len(wanted) == 118
    assert found.trained_on == 351
    assert found.unigram == pytest.approx(math.exp(-sum(math.log(single(b)) for _, b in wanted) / 118))
    assert found.bigram == pytest.approx(math.exp(-sum(math.log(double(a, b)) for a, b in wanted) / 118))
    assert sum(double(3, word) for word in range(15)) == pytest.approx(1)


def test_the_limit_cuts_both_sets() -> None:
    ids = [np.arange(10, dtype=np.uint16)] * 3
    found = baseline(ids, ids, 10, 15)
    assert found is not None
    assert (found.trained_on, found.targets) == (15, 13)


def test_counts_gathered_in_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    train = [generator.integers(0, 30, size).astype(np.uint16) for size in (900, 1, 350, 77, 400)]
    held_out = [generator.integers(0, 30, 200).astype(np.uint16)]
    whole = baseline(train, held_out, 30, 10_000)
    monkeypatch.setattr(ngram, "_AT_ONCE", 64)
    assert baseline(train, held_out, 30, 10_000) == whole


def test_nothing_to_measure() -> None:
    assert baseline([np.zeros(5, np.uint16)], [np.zeros(1, np.uint16)], 2, 100) is None
