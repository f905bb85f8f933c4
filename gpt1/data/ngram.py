"""Perplexities of n-gram models: what a neural model must beat to have learned anything.

Both are measured over the same targets as a model's: every id of a held-out book but its first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gpt1.data.shards import Ids

Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]
_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Baseline:
    """Perplexities per token over `targets` held-out ids, from counts of `trained_on` training
    ids.
    """

    unigram: float
    bigram: float
    targets: int
    trained_on: int


def baseline(
    train: Iterable[Ids], held_out: Iterable[Ids], vocabulary_size: int, limit: int
) -> Baseline | None:
    """Unigram (add-one) and bigram (interpolated Witten-Bell over that unigram) perplexities of
    held-out books.

    At most `limit` ids of either set are used, from the first books on. None when the held-out
    books have no target.
    """
    trained, tested = _up_to(train, limit), _up_to(held_out, limit)
    targets = sum(max(0, len(ids) - 1) for ids in tested)
    total = sum(len(ids) for ids in trained)
    if not targets or not total:
        return None
    unigram = _unigram(trained, vocabulary_size)  # (V,)
    unigram_loss = -sum(float(np.log(unigram[ids[1:]]).sum()) for ids in tested) / targets
    return Baseline(
        unigram=float(np.exp(unigram_loss)),
        bigram=float(np.exp(_bigram_loss(trained, tested, unigram) / targets)), targets=targets,
        trained_on=total,
    )


def _up_to(books: Iterable[Ids], limit: int) -> list[Ids]:
    chosen: list[Ids] = []
    for ids in books:
        if limit <= 0:
            break
        chosen.append(ids[:limit])
        limit -= len(chosen[-1])
    return chosen


def _unigram(books: Sequence[Ids], size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """P(w) with one added to each count, (V,)."""
    counts = np.ones(size, dtype=np.float64)
    for ids in books:
        counts += np.bincount(ids, minlength=size)
    return counts / counts.sum()


def _bigram_loss(
    trained: Sequence[Ids], tested: Sequence[Ids],
    unigram: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> float:
    """The summed negative log-probability of the targets given the id before.

    Witten-Bell: P(w | h) = (c(h, w) + t(h) P(w)) / (c(h) + t(h)) with t(h) the number of different
    followers of h; P(w) for an h never seen.
    """
    size = len(unigram)
    pairs, counts = _counted(trained, size)  # (P,) each
    heads = pairs // size
    followed = np.bincount(heads, weights=counts, minlength=size)  # c(h), (V,)
    followers = np.bincount(heads, minlength=size)  # t(h), (V,)
    loss = 0.0
    for ids in tested:
        wanted = _pairs(ids, size)  # (n - 1,)
        before, target = wanted // size, wanted % size
        at = np.minimum(np.searchsorted(pairs, wanted), max(len(pairs) - 1, 0))
        seen = np.where(pairs[at] == wanted, counts[at], 0) if len(pairs) else np.zeros(len(wanted))
        weight = np.where(followers[before] > 0, followers[before], 1)
        loss -= float(np.log((seen + weight * unigram[target]) / (followed[before] + weight)).sum())
    return loss


def _counted(books: Sequence[Ids], size: int) -> tuple[Numbers, Numbers]:
    """The different pairs of all books in rising order, and how often each occurs, (P,) each.

    Counted a book (at most some millions of ids) at a time. New counts are merged with those of
    all before when they are half as many, so memory is bounded by the number of different pairs
    and each is moved a logarithmic number of times.
    """
    total = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    new: list[tuple[Numbers, Numbers]] = []
    added = 0
    for book in books:
        for at in range(0, len(book), _AT_ONCE):
            new.append(np.unique(_pairs(book[at : at + _AT_ONCE + 1], size), return_counts=True))
            added += len(new[-1][0])
            if 2 * added >= len(total[0]):
                total, new, added = _merged([total, *new]), [], 0
    return _merged([total, *new])


def _merged(counts: Sequence[tuple[Numbers, Numbers]]) -> tuple[Numbers, Numbers]:
    pairs, numbers = (np.concatenate(columns) for columns in zip(*counts, strict=True))
    order = np.argsort(pairs, kind="stable")  # sorted runs: a merge
    pairs, numbers = pairs[order], numbers[order]
    first = np.flatnonzero(np.diff(pairs, prepend=-1))
    return pairs[first], np.add.reduceat(numbers, first) if len(first) else numbers


def _pairs(ids: Ids, size: int) -> Numbers:
    """Each id and the next as one number, (n - 1,); never across books."""
    wide = ids.astype(np.int64)
    return wide[:-1] * size + wide[1:]
