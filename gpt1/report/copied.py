"""How much of the samples of a pre-training is copied from the training books."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpt1.data.ngram_index import NgramIndex
from gpt1.data.shards import Shards
from gpt1.report.sources import Source, only
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.vocabulary import Vocabulary

WINDOWS = 500  # of held-out text


class CopiedText:
    """Shares of a text's tokens in spans of 8 or more that occur in the training books."""

    @classmethod
    def of(cls, sources: Sequence[Source], folder: Path) -> CopiedText | None:
        """Searches in the shards of a workflow, with an index in `folder`. None where it has no
        shards or no vocabulary.
        """
        shard, vocabulary = only(sources, "shard"), only(sources, "vocabulary", "pretrained")
        names = [next((name for name in vocabulary.files if name.startswith(prefix)), "")
                 for prefix in ("encoder_bpe_", "vocab_")]
        if "books.parquet" not in shard.files or not all(names):
            return None
        encoder, merges = (vocabulary.files[name] for name in names)
        return cls(shard, Tokenizer(Vocabulary.read(encoder, merges)), folder / "ngrams")

    def __init__(self, shard: Source, tokenizer: Tokenizer, file: Path) -> None:
        train = _shards(shard, "train")
        NgramIndex.build(train, file)
        self._shard, self._tokenizer, self._index = shard, tokenizer, NgramIndex(train, file)

    def share(self, text: str) -> float:
        """The share of a text, from 0 to 1."""
        return self._share(self._tokenizer.encode(text))

    def held_out_share(self, length: int) -> float | None:
        """The mean share of windows of `length` tokens, spread over the held-out text; None where
        no book is that long.
        """
        if not any(name.startswith("held_out/") for name in self._shard.files):
            return None
        books = _shards(self._shard, "held_out")
        places = [(book, start) for book, size in enumerate(books.lengths)
                  for start in range(0, size - length + 1, length)]
        chosen = places[:: max(1, len(places) // WINDOWS)]
        shares = [self._share(books.book(book)[start : start + length].tolist())
                  for book, start in chosen]
        return sum(shares) / len(shares) if shares else None

    def _share(self, ids: Sequence[int]) -> float:
        return int(self._index.copied(ids).sum()) / max(1, len(ids))


def _shards(shard: Source, chosen: str) -> Shards:
    """A set; its files have been compared with their records."""
    paths = [shard.files[name] for name in shard.files if name.startswith(f"{chosen}/")]
    return Shards.open(paths, shard.files["books.parquet"], chosen, verify=False)
