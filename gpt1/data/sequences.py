"""Training sequences: contiguous runs of T inputs with their T targets, in an order that is a pure
function of (seed, epoch).

At book boundaries: a sequence lies within one book. A book of n ids gives k = floor((n - 1) / T)
sequences of T inputs, each read with the id that follows (T + 1 ids). The remaining (n - 1) - k T
ids are skipped: each epoch the book's sequences begin at an offset drawn from 0 to that remainder,
a hash of (seed, epoch, book). A book of no more than T ids gives no sequence.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gpt1.data.hashing import hash64
from gpt1.data.shards import TokenShards
from gpt1.errors import UserError

Batch = np.ndarray[tuple[int, int], np.dtype[np.int64]]
_ORDER, _OFFSET = 1, 2


class SequenceSampler:
    """Sequences of length T over the shards of one set.

    Resuming needs one integer, the step; the number of ranks plays no part.
    """

    def __init__(self, shards: TokenShards, length: int, seed: int = 0) -> None:
        self.shards = shards
        self.length = length
        self.seed = seed
        lengths = np.asarray(shards.lengths, dtype=np.int64)
        self._counts = np.maximum(lengths - 1, 0) // length  # (books,)
        self._slack = np.maximum(lengths - 1, 0) - self._counts * length  # (books,)
        self._first = np.concatenate([[0], np.cumsum(self._counts)])  # (books + 1,)
        self.per_epoch = int(self._first[-1])
        if not self.per_epoch:
            raise UserError(
                f"no sequence of {length} tokens fits: the longest of {len(lengths)} books has"
                f" {int(lengths.max(initial=0))} tokens, expected at least {length + 1}. Use a"
                " shorter context or longer books."
            )
        # Two, since a batch can lie across the end of an epoch.
        self.order = lru_cache(maxsize=2)(self._order)
        self.offsets = lru_cache(maxsize=2)(self._offsets)

    def _order(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The sequences' indices (per_epoch,) in the order of one epoch: sorted by a hash of
        (seed, epoch, index).
        """
        hashes = hash64((self.seed, _ORDER, epoch), np.arange(self.per_epoch, dtype=np.uint64))
        return np.argsort(hashes, kind="stable")

    def _offsets(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Where each book's first sequence begins in an epoch (books,), from 0 to what is left
        over.
        """
        hashes = hash64((self.seed, _OFFSET, epoch), np.arange(len(self._counts), dtype=np.uint64))
        return (hashes % (self._slack + 1).astype(np.uint64)).astype(np.int64)

    def locate(self, sample: int) -> tuple[int, int]:
        """The book's index and the first id's position in it, of the sample with that number
        counted from the start of training.
        """
        epoch, position = divmod(sample, self.per_epoch)
        sequence = int(self.order(epoch)[position])
        book, start = self._within(sequence)
        return book, int(self.offsets(epoch)[book]) + start

    def batch(self, step: int, batch_size: int) -> Batch:
        """The global batch of one step, (B, T + 1): samples step * B … step * B + B - 1; inputs
        are [:, :-1], targets [:, 1:].
        """
        first = step * batch_size
        return self._read([self.locate(sample) for sample in range(first, first + batch_size)])

    def validation(self, limit: int | None = None) -> Batch:
        """Every sequence at offset 0, in the order of the books, (n, T + 1); with `limit`, that
        many of them, evenly spread.
        """
        chosen = range(self.per_epoch)
        if limit is not None and limit < self.per_epoch:
            chosen = [index * self.per_epoch // limit for index in range(limit)]  # type: ignore[assignment]
        return self._read([self._within(sequence) for sequence in chosen])

    def _within(self, sequence: int) -> tuple[int, int]:
        """The book of a sequence, and its start there at offset 0."""
        book = int(np.searchsorted(self._first, sequence, side="right")) - 1
        return book, (sequence - int(self._first[book])) * self.length

    def _read(self, places: list[tuple[int, int]]) -> Batch:
        out = np.empty((len(places), self.length + 1), dtype=np.int64)
        for row, (book, start) in enumerate(places):
            out[row] = self.shards.book(book)[start : start + self.length + 1]
        return out
