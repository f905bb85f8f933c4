"""How much of the samples of a pre-training is copied from the training books."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from gpt1.data.ngram_index import NgramIndex, copied
from gpt1.data.shards import Shards
from gpt1.report.sources import Source, of_kind, only
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.vocabulary import Vocabulary

WINDOWS = 500  # of held-out text
MOST_TOKENS = 250_000_000
"""Of more, the index would cost the report minutes and gigabytes; `gpt1 trace --text` searches."""


class CopiedText:
    """Shares, from 0 to 1, of a text's tokens in spans of 8 or more that occur in the training
    books.
    """

    @classmethod
    def of(cls, sources: Sequence[Source]) -> CopiedText | None:
        """Searches in the shards of a workflow. None where it has no samples, shards, or
        vocabulary, several shards, or more than MOST_TOKENS to search in.
        """
        shard, vocabulary = only(sources, "shard"), only(sources, "vocabulary", "pretrained")
        tokens = shard.fact("train_tokens") or 0  # before any shard is fetched from a bucket
        if len(of_kind(sources, "shard")) != 1 or tokens > MOST_TOKENS:
            return None
        names = ("encoder_bpe_", "vocab_")
        files = sorted(name for name in vocabulary.files if name.startswith(names))
        length = only(sources, "pretrain").settings.get("sample_tokens")
        if not length or "books.parquet" not in shard.files or len(files) != len(names):
            return None
        tokenizer = Tokenizer(Vocabulary.read(*(vocabulary.files[name] for name in files)))
        return cls(shard, _shards(shard, "train"), tokenizer, length)

    def __init__(self, shard: Source, train: Shards, tokenizer: Tokenizer, length: int) -> None:
        self._shard, self._tokenizer, self._length = shard, tokenizer, length
        with TemporaryDirectory() as folder:  # a file that is mapped can be read when it is gone
            NgramIndex.build(train, Path(folder, "ngrams"))
            self._index = NgramIndex(train, Path(folder, "ngrams"))

    def share(self, text: str) -> float:
        """The share of a text."""
        return self._share(self._tokenizer.encode(text))

    def held_out_share(self) -> float | None:
        """The mean share of windows of held-out text that are as long as a sample, spread over
        it; None where there is none.
        """
        if not any(name.startswith("held_out/") for name in self._shard.files):
            return None
        books, length = _shards(self._shard, "held_out"), self._length
        windows = [
            ids[start : start + length]
            for ids in books
            for start in range(0, len(ids) - length + 1, length)
        ]
        chosen = windows[:: max(1, len(windows) // WINDOWS)]
        shares = [self._share(ids.tolist()) for ids in chosen]
        return sum(shares) / len(shares) if shares else None

    def _share(self, ids: Sequence[int]) -> float:
        return copied(self._index.matches(ids)) / max(1, len(ids))


def _shards(shard: Source, chosen: str) -> Shards:
    """A set; its files have been compared with their records."""
    paths = [shard.files[name] for name in shard.files if name.startswith(f"{chosen}/")]
    return Shards.open(paths, shard.files["books.parquet"], chosen, verify=False)
