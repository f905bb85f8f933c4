"""All shards of one set, book by book."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gpt1.data.books_table import BookSpan, read_spans
from gpt1.data.shard_file import Ids, open_shard
from gpt1.errors import UserError


class TokenShards:
    """The books of one set (`train` or `held_out`), in the order of the table of books. The ids stay in the files."""

    def __init__(self, ids: Sequence[Ids], spans: Sequence[BookSpan], vocabulary_sha256: str) -> None:
        self._ids = ids
        self.spans = list(spans)
        self.vocabulary_sha256 = vocabulary_sha256

    @classmethod
    def open(cls, paths: Sequence[Path], books: Path, set: str, vocabulary_sha256: str | None = None) -> TokenShards:
        """Open the shards at `paths` that belong to `set`; `books` is books.parquet.

        UserError when a shard is missing, damaged, of another vocabulary than the others (or than `vocabulary_sha256`), or does not
        hold what the table says.
        """
        shards = {path: open_shard(path) for path in sorted(paths)}
        chosen = {shard.part: (path, shard) for path, shard in shards.items() if shard.set == set}
        expected = vocabulary_sha256
        for path, shard in chosen.values():
            expected = expected or shard.vocabulary
            if shard.vocabulary != expected:
                raise UserError(
                    f"{path}: made with the vocabulary {shard.vocabulary[:12]}, expected {expected[:12]}; "
                    "run the shard stage again with the vocabulary in use."
                )
        spans = [span for span in read_spans(books) if span.set == set]
        if not spans or expected is None:
            raise UserError(f"{books}: no book of the set {set!r} in the shards given; run the shard stage again.")
        ids = []
        for span in spans:
            if span.part not in chosen:
                raise UserError(
                    f"{books}: the book {span.book!r} lies in {set}/{span.part}.arrow, which is missing; run the shard stage again."
                )
            path, shard = chosen[span.part]
            if span.start + span.length > len(shard.ids):
                raise UserError(
                    f"{path}: {len(shard.ids)} ids, expected at least {span.start + span.length} for the book {span.book!r}; "
                    "run the shard stage again."
                )
            ids.append(shard.ids[span.start : span.start + span.length])
        return cls(ids, spans, expected)

    @property
    def tokens(self) -> int:
        """The number of ids of all books."""
        return sum(span.length for span in self.spans)

    @property
    def lengths(self) -> list[int]:
        """The number of ids of each book."""
        return [span.length for span in self.spans]

    def __len__(self) -> int:
        return len(self.spans)

    def book(self, index: int) -> Ids:
        """The ids (n,) of one book, mapped from its file."""
        return self._ids[index]

    def __iter__(self) -> Iterator[Ids]:
        return iter(self._ids)
