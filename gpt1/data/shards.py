"""All shards of one set, book by book."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gpt1.data.document_index import DocumentSpan, read_spans
from gpt1.data.shard_file import Ids, MappedShard, ids_sha256, open_shard
from gpt1.errors import UserError

_AGAIN = "run the shard stage again"


class TokenShards:
    """The books of one set (`train` or `held_out`), in the order of books.parquet.

    The ids stay in the files.
    """

    def __init__(
        self, ids: Sequence[Ids], spans: Sequence[DocumentSpan], vocabulary_sha256: str
    ) -> None:
        self._ids = ids
        self.spans = list(spans)
        self.vocabulary_sha256 = vocabulary_sha256

    @classmethod
    def open(
        cls, paths: Sequence[Path], books: Path, set: str, vocabulary_sha256: str | None = None,
        verify: bool = True,
    ) -> TokenShards:
        """Open the shards at `paths`, which must all belong to `set`; `books` is books.parquet.

        UserError when a shard is missing, damaged, of another set, of another vocabulary than the
        others (or than `vocabulary_sha256`), or does not hold what the table says. `verify` hashes
        the ids of every book: a wrong byte would train silently, and the whole shared corpus (220
        MB) takes a fraction of a second.
        """
        opened = {path: open_shard(path) for path in sorted(paths)}
        expected = vocabulary_sha256
        for path, shard in opened.items():
            expected = expected or shard.vocabulary
            _refuse_foreign(path, shard, set, expected)
        parts = {shard.part: (path, shard) for path, shard in opened.items()}
        spans = [span for span in read_spans(books) if span.set == set]
        if not spans or expected is None:
            raise UserError(f"{books}: no book of the set {set!r} in the shards given; {_AGAIN}.")
        return cls([_ids_of(span, books, parts, verify) for span in spans], spans, expected)

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


def _refuse_foreign(path: Path, shard: MappedShard, set: str, vocabulary: str) -> None:
    if shard.set != set:
        raise UserError(
            f"{path}: a shard of the set {shard.set!r}, expected {set!r}; give the files of that"
            " set."
        )
    if shard.vocabulary != vocabulary:
        raise UserError(
            f"{path}: made with the vocabulary {shard.vocabulary[:12]}, expected {vocabulary[:12]};"
            f" {_AGAIN} with the vocabulary in use."
        )


def _ids_of(
    span: DocumentSpan, books: Path, parts: Mapping[str, tuple[Path, MappedShard]], verify: bool
) -> Ids:
    """The ids (n,) of a book, mapped from its file."""
    if span.part not in parts:
        raise UserError(
            f"{books}: the book {span.book!r} is in {span.set}/{span.part}.arrow, which is"
            f" missing; {_AGAIN}."
        )
    path, shard = parts[span.part]
    end = span.start + span.length
    if end > len(shard.ids):
        raise UserError(
            f"{path}: {len(shard.ids)} tokens, expected at least {end} for the book {span.book!r};"
            f" {_AGAIN}."
        )
    ids = shard.ids[span.start : end]
    if verify and (found := ids_sha256(ids)) != span.sha256:
        raise UserError(
            f"{path}: the ids of the book {span.book!r} ({span.start} to {end}) have the sha256"
            f" {found[:12]}, {books.name} says {span.sha256[:12]}: the file is damaged or from"
            f" another run; {_AGAIN}."
        )
    return ids
