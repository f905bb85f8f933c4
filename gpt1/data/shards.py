"""Token shards, and the document index that says where each book is in them.

A shard is an uncompressed Arrow IPC file with one column of ids, mapped into memory when read. The
index is books.parquet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpt1.errors import UserError

Ids = np.ndarray[tuple[int], np.dtype[np.uint16 | np.uint32]]
_SCHEMA = pa.schema(
    [
        ("book", pa.string()), ("title", pa.string()), ("author", pa.string()),
        ("source", pa.string()), ("part", pa.string()), ("set", pa.string()), ("start", pa.int64()),
        ("length", pa.int64()), ("sha256", pa.string()), ("cleaning", pa.string()),
    ]
)


def _damaged(where: object, problem: str) -> UserError:
    """For a file that is not as the shard stage wrote it."""
    return UserError(f"{where}: {problem}; run the shard stage again.")


# Shards


def id_type(vocabulary_size: int) -> type[np.uint16] | type[np.uint32]:
    """uint16 while every id fits, else uint32."""
    return np.uint16 if vocabulary_size <= 1 << 16 else np.uint32


def ids_sha256(ids: Ids) -> str:
    """The sha256 of ids (n,), as they are in a shard (about a second for a gigabyte)."""
    return sha256(np.ascontiguousarray(ids).data).hexdigest()


def write_shard(file: IO[bytes], ids: Ids, metadata: Mapping[str, str]) -> None:
    """Write ids (n,) as one record batch.

    `metadata` needs `vocabulary` (its sha256), `set` and `part`.
    """
    column = pa.array(ids)
    schema = pa.schema(
        [pa.field("ids", column.type, nullable=False)], metadata=dict(sorted(metadata.items()))
    )
    with pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch([column], schema=schema))


@dataclass(frozen=True)
class MappedShard:
    """A shard opened for reading: `ids` (n,) is mapped from the file, not in memory."""

    ids: Ids
    vocabulary: str
    set: str
    part: str


def open_shard(path: Path) -> MappedShard:
    """Map a shard into memory.

    UserError names the file when it is missing, damaged or something else.
    """
    try:
        # The arrays keep the mapping alive.
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        metadata = {
            key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()
        }
    except FileNotFoundError as error:
        raise _damaged(path, "no such shard") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        problem = f"not a complete Arrow file ({str(error).splitlines()[0]})"
        raise _damaged(path, problem) from error
    missing = {"vocabulary", "set", "part"} - metadata.keys()
    if missing or table.column_names != ["ids"] or table["ids"].num_chunks != 1:
        expected = "one column `ids` in one batch, with vocabulary, set, part"
        raise _damaged(path, f"an Arrow file, but not a token shard ({expected})")
    column = table["ids"].chunk(0)
    if column.type not in (pa.uint16(), pa.uint32()) or column.null_count:
        expected = "expected uint16 or uint32 without nulls"
        raise _damaged(path, f"ids of type {column.type}, {expected}")
    ids = column.to_numpy(zero_copy_only=True)
    return MappedShard(ids, metadata["vocabulary"], metadata["set"], metadata["part"])


# The document index


@dataclass(frozen=True)
class DocumentSpan:
    """`length` ids from `start` in the file `<set>/<part>.arrow` are this book's.

    `sha256` is that of the ids' bytes, as they are in the file: the book's content id, from which
    the order of training follows. `cleaning` names the file of the clean stage with the record of
    what was done to the book; None: not recorded.
    """

    book: str
    title: str
    author: str | None
    source: str
    part: str
    set: str
    start: int
    length: int
    sha256: str
    cleaning: str | None = None


def write_spans(file: IO[bytes], spans: Sequence[DocumentSpan]) -> None:
    """Write the table in the order given."""
    table = pa.Table.from_pylist([vars(span) for span in spans], schema=_SCHEMA)
    pq.write_table(table, file, compression="zstd", compression_level=3, write_page_checksum=True)


def read_spans(path: Path) -> Iterator[DocumentSpan]:
    """The rows of a table written by `write_spans`.

    UserError when the file is missing or damaged.
    """
    try:
        rows = pq.read_table(path, schema=_SCHEMA, page_checksum_verification=True).to_pylist()
    except (pa.ArrowException, OSError) as error:
        problem = f"cannot be read as the table of books ({str(error).splitlines()[0]})"
        raise _damaged(path, problem) from error
    for row in rows:
        yield DocumentSpan(**row)


def copy_spans(source: Path, target: Path, parts: Collection[str]) -> None:
    """Write to `target` the books of `source` that are held out or in these `parts` of the
    training text.
    """
    kept = [span for span in read_spans(source) if span.set != "train" or span.part in parts]
    with target.open("wb") as file:
        write_spans(file, kept)


# A set


class Shards:
    """The books of one set (`train` or `held_out`), in the order of books.parquet.

    The ids stay in the files. `spans` says of each book where it is.

        >>> paths = sorted(folder.glob("train/*.arrow"))
        >>> shards = gpt1.Shards.open(paths, folder / "books.parquet", "train")
        >>> shards.spans[0].title, shards.book(0)[:10]
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
    ) -> Shards:
        """Open the shards at `paths`, which must all belong to `set`; `books` is books.parquet.

        UserError when a shard is missing, damaged, of another set, of another vocabulary than the
        others (or than `vocabulary_sha256`), or does not hold what the table says. `verify` hashes
        the ids of every book: a wrong byte would train silently, and the whole shared corpus (220
        MB) takes a fraction of a second.
        """
        expected, parts = vocabulary_sha256, dict[str, tuple[Path, MappedShard]]()
        for path in sorted(paths):
            shard = open_shard(path)
            expected = expected or shard.vocabulary
            if shard.set != set:
                advice = f"expected {set!r}; give the files of that set."
                raise UserError(f"{path}: a shard of the set {shard.set!r}, {advice}")
            if shard.vocabulary != expected:
                problem = f"made with the vocabulary {shard.vocabulary[:12]}"
                raise _damaged(path, f"{problem}, expected {expected[:12]}, the one in use")
            parts[shard.part] = path, shard
        spans = [span for span in read_spans(books) if span.set == set]
        if not spans or expected is None:
            raise _damaged(books, f"no book of the set {set!r} in the shards given")
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


def _ids_of(
    span: DocumentSpan, books: Path, parts: Mapping[str, tuple[Path, MappedShard]], verify: bool
) -> Ids:
    """The ids (n,) of a book, mapped from its file."""
    if span.part not in parts:
        place = f"{span.set}/{span.part}.arrow"
        raise _damaged(books, f"the book {span.book!r} is in {place}, which is missing")
    path, shard = parts[span.part]
    end = span.start + span.length
    if end > len(shard.ids):
        expected = f"expected at least {end} for the book {span.book!r}"
        raise _damaged(path, f"{len(shard.ids)} tokens, {expected}")
    ids = shard.ids[span.start : end]
    if verify and (found := ids_sha256(ids)) != span.sha256:
        raise _damaged(
            path,
            f"the ids of the book {span.book!r} ({span.start} to {end}) have the sha256"
            f" {found[:12]}, {books.name} says {span.sha256[:12]}: damaged or from another run",
        )
    return ids
