"""Training sequences: T consecutive inputs with their T targets, in an order that is a pure
function of (seed, epoch) and the books' content.

A sequence is within one book. A book of n ids gives k = floor((n - 1) / T) sequences of T inputs,
each read with the id that follows (T + 1 ids). The remaining (n - 1) - k T ids are skipped: each
epoch the book's sequences begin at an offset from 0 to that remainder, a hash of (seed, epoch,
content id). A book of no more than T ids gives no sequence.

The order of an epoch is the argsort of a hash of (seed, epoch, content id, index of the sequence in
its book). The content id is the sha256 of the book's ids, which books.parquet holds. So neither
place nor offset of a sequence depends on the other books: with a book more or less, all other
sequences keep their offsets and their relative order.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gpt1.data.shards import Shards
from gpt1.errors import UserError

Batch = np.ndarray[tuple[int, int], np.dtype[np.int64]]
Indices = np.ndarray[tuple[int], np.dtype[np.int64]]
U64 = np.ndarray[tuple[int], np.dtype[np.uint64]]
Weights = np.ndarray[tuple[int], np.dtype[np.float32]]
Span = tuple[int, int, int]
"""A book's index, or the number of a sample, with the start and end of some ids in the book."""
_ORDER, _OFFSET = 1, 2
_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


class SequenceSampler:
    """Sequences of length T over the shards of one set.

    Resuming needs one integer, the step; the number of ranks plays no part. The books whose ids are
    in `exclude_books` stay in the batches, but do not count in the loss (`loss_weights`).

    Raises UserError when no sequence fits, or when a book to exclude is not in the set.

        >>> sampler = gpt1.SequenceSampler(shards, length=512, seed=0)
        >>> sampler.batch(step=0, batch_size=64).shape
        (64, 513)
    """

    def __init__(
        self, shards: Shards, length: int, seed: int = 0, exclude_books: Collection[str] = ()
    ) -> None:
        self.shards = shards
        self.length = length
        self.seed = seed
        lengths = np.asarray(shards.lengths, dtype=np.int64)
        self._counts = np.maximum(lengths - 1, 0) // length  # (books,)
        self._slack = np.maximum(lengths - 1, 0) - self._counts * length  # (books,)
        self._first = np.concatenate([[0], np.cumsum(self._counts)])  # (books + 1,)
        # 64 of the 256 bits: of a million books two agree with a probability of 3e-8, and then
        # only share their offsets.
        self._contents = np.array([int(span.sha256[:16], 16) for span in shards.spans], np.uint64)
        self.per_epoch = int(self._first[-1])
        if not self.per_epoch:
            raise UserError(
                f"no sequence of {length} tokens fits: the longest of {len(lengths)} books has"
                f" {int(lengths.max(initial=0))} tokens, expected at least {length + 1}. Use a"
                " shorter context or longer books."
            )
        self._excluded = _mask_of(exclude_books, [span.book for span in shards.spans])  # (books,)
        # Two, since a batch can span the end of an epoch.
        self.order = lru_cache(maxsize=2)(self._order)
        self.offsets = lru_cache(maxsize=2)(self._offsets)

    def _order(self, epoch: int) -> Indices:
        """The sequences' numbers (per_epoch,), counted book after book, in the order of one epoch.

        Equal hashes, as of two books with the same ids, keep the order of books.parquet.
        """
        books = hash64((self.seed, _ORDER, epoch), self._contents)  # (books,)
        within = np.arange(self.per_epoch) - np.repeat(self._first[:-1], self._counts)
        hashes = splitmix64(np.repeat(books, self._counts) ^ within.astype(np.uint64))
        return np.argsort(hashes, kind="stable")

    def _offsets(self, epoch: int) -> Indices:
        """Where each book's first sequence begins in an epoch (books,), from 0 to what is left
        over.
        """
        hashes = hash64((self.seed, _OFFSET, epoch), self._contents)
        return (hashes % (self._slack + 1).astype(np.uint64)).astype(np.int64)

    def locate(self, sample: int) -> tuple[int, int]:
        """The book's index and the first id's position in it, of the sample with that number
        counted from the start of training.
        """
        epoch, position = divmod(sample, self.per_epoch)
        book, start = self._within(int(self.order(epoch)[position]))
        return book, int(self.offsets(epoch)[book]) + start

    def reads(self, spans: Sequence[Span], samples: int) -> list[list[Span]]:
        """Which of the first `samples` samples read each of the spans of books, or a part of it: a
        list for each span, of (sample, start, end), by epochs.

        A sequence has T + 1 ids: the last is the first of the book's next sequence.
        """
        found: list[list[Span]] = [[] for _ in spans]
        for epoch in range(-(-samples // self.per_epoch)):
            positions = np.empty(self.per_epoch, np.int64)
            positions[self.order(epoch)] = np.arange(self.per_epoch)
            for (book, start, end), reads in zip(spans, found, strict=True):
                offset = int(self.offsets(epoch)[book])
                # From the first sequence whose last target is not before the span, to the last that
                # begins in it or before.
                first = max(0, -(-(start - offset) // self.length) - 1)
                beyond = min(int(self._counts[book]), -(-(end - offset) // self.length))
                for within in range(first, beyond):
                    position = int(positions[self._first[book] + within])
                    sample = epoch * self.per_epoch + position
                    begin = offset + within * self.length
                    if sample < samples:
                        ids = max(start, begin), min(end, begin + self.length + 1)
                        reads.append((sample, *ids))
        return found

    def batch(self, step: int, batch_size: int, rows: Iterable[int] | None = None) -> Batch:
        """The global batch of one step, (B, T + 1): samples step * B to step * B + B - 1; inputs
        are [:, :-1], targets [:, 1:]. With `rows`, only those of it are read, (len(rows), T + 1).
        """
        chosen = range(batch_size) if rows is None else rows
        return self._read([self.locate(step * batch_size + row) for row in chosen])

    def kept(self, step: int, batch_size: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which sequences (B,) of a step's batch count in the loss: all but the excluded books'."""
        return ~self._excluded[self._books_at(step, batch_size)]

    def loss_weights(self, step: int, batch_size: int) -> Weights | None:
        """The factor (B,) of each sequence's loss in the mean over the global batch of a step: 0
        for those of excluded books, B / kept for the kept ones. None when all are kept, so that
        nothing is multiplied.
        """
        kept = self.kept(step, batch_size)
        if kept.all():
            return None
        weight = batch_size / max(int(kept.sum()), 1)
        return np.where(kept, weight, 0.0).astype(np.float32)

    def books_of(self, step: int, batch_size: int) -> list[str]:
        """The ids of the books whose sequences count in the loss of a step, each once, in the order
        of the batch.
        """
        books = self._books_at(step, batch_size)[self.kept(step, batch_size)]
        return list(dict.fromkeys(self.shards.spans[book].book for book in books))

    def _books_at(self, step: int, batch_size: int) -> Indices:
        """The books' indices (B,) of the sequences of a step's batch."""
        epochs, positions = np.divmod(
            np.arange(step * batch_size, (step + 1) * batch_size), self.per_epoch
        )
        sequences = [
            self.order(epoch)[positions[epochs == epoch]]
            for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
        ]
        return np.searchsorted(self._first, np.concatenate(sequences), side="right") - 1

    def validation(self) -> Batch:
        """Every sequence at offset 0, in the order of the books, (n, T + 1)."""
        return self._read([self._within(sequence) for sequence in range(self.per_epoch)])

    def _within(self, sequence: int) -> tuple[int, int]:
        """The book of a sequence, and its start there at offset 0."""
        book = int(np.searchsorted(self._first, sequence, side="right")) - 1
        return book, (sequence - int(self._first[book])) * self.length

    def _read(self, places: list[tuple[int, int]]) -> Batch:
        out = np.empty((len(places), self.length + 1), dtype=np.int64)
        for row, (book, start) in enumerate(places):
            out[row] = self.shards.book(book)[start : start + self.length + 1]
        return out


def batch_of(step: int, skipped: Sequence[int]) -> int:
    """The batch (0-based, in the order of the data) of the 0-based `step`: the step-th of those
    not `skipped` (ascending).
    """
    batch = step
    for out in skipped:
        if out > batch:
            break
        batch += 1
    return batch


def step_of(batch: int, skipped: Sequence[int]) -> int | None:
    """The inverse; None for a skipped batch."""
    return None if batch in skipped else batch - sum(out < batch for out in skipped)


def skipped_in(events: Sequence[Mapping[str, Any]]) -> list[int]:
    """The batches skipped by all rollbacks (gpt1.train.divergence), ascending."""
    return sorted(batch for event in events for batch in event["batches"])


def _mask_of(
    exclude_books: Collection[str], books: Sequence[str]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of `books` are to be excluded, (books,)."""
    for book in exclude_books:
        if book not in books:
            near = ", ".join(map(repr, difflib.get_close_matches(book, books, cutoff=0.0)))
            raise UserError(
                f"pretrain.exclude_books: {book!r} is none of the {len(books)} training books in"
                f" books.parquet; the nearest ids are {near}. Correct the id or remove it."
            )
    mask = np.isin(np.array(books), sorted(exclude_books))
    if mask.all():
        raise UserError(
            f"pretrain.exclude_books: all {len(books)} training books are excluded, expected at"
            " least one to train on. Remove some ids."
        )
    return mask


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
