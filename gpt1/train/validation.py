"""The held-out windows of a training, with the books they are from and the bytes they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt1.data.sequences import SequenceSampler
from gpt1.errors import UserError
from gpt1.model.loglikelihood import LARGEST
from gpt1.tokenizer.bpe import END
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.train.dist import DistContext

LossOf = Callable[[tuple[Tensor, ...]], Tensor]


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


def mean_loss(loss_of: LossOf, windows: np.ndarray, micro_batch: int, ranks: DistContext) -> float:
    """The mean loss in nats over all targets of `windows` (N, T+1).

    `loss_of` takes (B, T+1) ids and returns the scalar mean over its windows. Rank r computes
    micro-batches r, r + world, ...; the sums are added in the order of micro-batches, so the result
    does not depend on the number of ranks.
    """
    if len(windows) == 0:
        raise UserError(
            "held-out sequences: found none, expected at least one to compute perplexity; hold out"
            " more text or use a shorter context"
        )
    chunks = [windows[start : start + micro_batch] for start in range(0, len(windows), micro_batch)]
    rounds = -(-len(chunks) // ranks.world)
    sums = []
    for n in range(rounds):
        index = n * ranks.world + ranks.rank
        # ZeRO 3 gathers weights in every forward, so a rank without work repeats the last
        # micro-batch and discards the result
        chunk = chunks[min(index, len(chunks) - 1)]
        loss = loss_of((torch.from_numpy(np.ascontiguousarray(chunk)),))
        sums.append(float(loss) * len(chunk) if index < len(chunks) else 0.0)
    gathered = ranks.gather(torch.tensor(sums, dtype=torch.float64))  # (world, rounds)
    return math.fsum(gathered.T.flatten().tolist()) / len(windows)


def spread(count: int, limit: int) -> np.ndarray:
    """Indices of at most `limit` of `count` windows, evenly spread; all of them where `limit` is
    0.
    """
    if limit == 0 or limit >= count:
        return np.arange(count)
    return np.arange(limit) * count // limit
