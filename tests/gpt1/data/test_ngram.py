"""n-gram perplexities against counts done by hand."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from gpt1.data import ngram
from gpt1.data.ngram import baseline


def test_against_a_plain_count(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    train = [draw.integers(0, 12, size, np.uint16) for size in (300, 50, 1)]
    held_out = [draw.integers(0, 15, size, np.uint16) for size in (80, 40)]
    found = baseline(train, held_out, 15, 10_000)
    singles = Counter(int(word) for ids in train for word in ids)
    pairs = Counter((int(a), int(b)) for ids in train for a, b in pairwise(ids))
    heads = Counter(head for head, _ in pairs.elements())
    followers = Counter(head for head, _ in pairs)

    def single(word: int) -> float:
        return (singles[word] + 1) / (351 + 15)

    def double(head: int, word: int) -> float:
        if not followers[head]:
            return single(word)
        backed_off = followers[head] * single(word)
        return (pairs[head, word] + backed_off) / (heads[head] + followers[head])

    wanted = [(int(a), int(b)) for ids in held_out for a, b in pairwise(ids)]
    assert (found.targets, found.trained_on) == (len(wanted), 351) == (118, 351)
    unigram = math.exp(-sum(math.log(single(b)) for _, b in wanted) / 118)
    bigram = math.exp(-sum(math.log(double(a, b)) for a, b in wanted) / 118)
    assert (found.unigram, found.bigram) == (pytest.approx(unigram), pytest.approx(bigram))
    monkeypatch.setattr(ngram, "_AT_ONCE", 64)
    assert baseline(train, held_out, 15, 10_000) == found


def test_the_limit_cuts_both_sets_and_nothing_is_no_measure() -> None:
    ids = [np.arange(10, dtype=np.uint16)] * 3
    found = baseline(ids, ids, 10, 15)
    assert (found.trained_on, found.targets) == (15, 13)
    assert baseline([np.zeros(5, np.uint16)], [np.zeros(1, np.uint16)], 2, 100) is None
