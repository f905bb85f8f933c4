"""The held-out windows of a training, with the books they are from and the bytes they stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gpt1.data.sequences import SequenceSampler
from gpt1.evaluate.perplexity import LossOf, mean_loss, spread
from gpt1.tokenizer.bpe import END
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.train.dist import DistContext

LARGEST = 700.0  # nats, so that a perplexity is a finite number


@dataclass(frozen=True)
class HeldOut:
    """`windows` (N, T+1) in the order of their books; `books` names each book with its first
    window.
    """

    windows: np.ndarray
    books: list[tuple[str, int]]
    token_bytes: np.ndarray
    """(V,): UTF-8 bytes of each token as text, a space for the end of a word."""

    @classmethod
    def of(cls, sampler: SequenceSampler, vocabulary: Vocabulary) -> HeldOut:
        """All validation windows of a set."""
        counts = [max(length - 1, 0) // sampler.length for length in sampler.shards.lengths]
        starts = np.concatenate([[0], np.cumsum(counts)])
        named = zip(sampler.shards.spans, starts, counts, strict=False)
        books = [(span.book, int(start)) for span, start, count in named if count]
        sizes = np.array([len(token.replace(END, " ").encode()) for token in vocabulary.tokens])
        return cls(sampler.validation(), books, sizes)

    def __len__(self) -> int:
        return len(self.windows)

    def measure(
        self, loss_of: LossOf, limit: int, micro_batch: int, ranks: DistContext
    ) -> tuple[dict[str, float], int]:
        """Loss (nats a token), perplexity and bits a byte on `limit` windows, evenly spread (0:
        all); and how many there were.
        """
        chosen = self.windows[spread(len(self.windows), limit)]
        return self._figures(mean_loss(loss_of, chosen, micro_batch, ranks), chosen), len(chosen)

    def by_book(
        self, loss_of: LossOf, micro_batch: int, ranks: DistContext
    ) -> list[dict[str, Any]]:
        """The same for each book alone, on all its windows. All ranks must call it."""
        ends = [*(start for _, start in self.books), len(self.windows)]
        rows = []
        for (book, _), (start, end) in zip(self.books, pairwise(ends), strict=True):
            windows = self.windows[start:end]
            figures = self._figures(mean_loss(loss_of, windows, micro_batch, ranks), windows)
            rows.append({"book": book, "windows": end - start, **figures})
        return rows

    def whole(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """The figures over all windows, from those by book: each window counts alike."""
        total = math.fsum(row["validation_loss"] * row["windows"] for row in rows)
        return self._figures(total / len(self.windows), self.windows)

    def _figures(self, loss: float, windows: np.ndarray) -> dict[str, float]:
        targets = windows[:, 1:]
        bits = loss / math.log(2) * targets.size / max(1, int(self.token_bytes[targets].sum()))
        return {
            "validation_loss": loss, "validation_perplexity": math.exp(min(loss, LARGEST)),
            "validation_bits_per_byte": bits,
        }
