"""What reading a corpus is made of: the settings, a file to read, the documents in it, what could
not be read, and the Parquet files in which stages keep books and tables.
"""

from __future__ import annotations

import posixpath
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from gpt1.errors import UserError
from gpt1.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

MIB = 1 << 20
LEFT_OUT = frozenset({"unknown_form"})
"""Rules for what is no book and not meant to be one: recorded and counted, but no fault of the
corpus.
"""
LOST = "book boundaries, titles, authors, chapters and paragraphs"
"""What a data set of one sentence a row does not say."""
MOST_SAID = 1_000
"""Characters of an id, a title or an author that a file gives; honest ones are shorter."""
_SHOWN = 300  # characters of anything from a file that a message repeats


class ReadingConfig(Settings):
    """What decides the documents that come out of the same bytes."""

    fallback_encoding: Literal["detect", "none", "windows-1252", "latin-1"] = Field(
        "detect",
        description="For files that are neither UTF-8 nor UTF-16: `detect` reads them as "
        "Windows-1252 or Latin-1, or refuses them; `none` refuses them all.",
    )
    text_column: str = Field(
        "text", min_length=1, description="Column with the text in Parquet and JSON lines files."
    )
    rows: Literal["auto", "documents", "sentences"] = Field(
        "auto",
        description="What one row of a Parquet or JSON lines file holds (docs/reference/books.md).",
    )
    sentences_per_document: int = Field(
        6_700, ge=1, le=10_000_000, description="Sentences per document when each row is one "
        "sentence; BooksCorpus has 6,704 per book.",
    )
    max_document: int = Field(
        64 * MIB, ge=1024, le=1 << 30, description="Maximum size of one text, in bytes.",
    )
    max_archive: int = Field(
        64 << 30, ge=1024, description="Maximum uncompressed size of one archive, in bytes."
    )
    max_ratio: int = Field(
        100, ge=2, le=100_000,
        description="Maximum compression ratio of an archive, checked after 16 MiB.",
    )
    max_line: int = Field(1_000_000, ge=100, description="Maximum characters per line.")


@dataclass(frozen=True)
class SourceFile:
    """A file of the corpus before it is read.

    `location`: a path of this machine, a URL, or `hf://` with a commit. `digest` is None where the
    content is still to be hashed.
    """

    name: str
    location: str
    digest: str | None = None


class Place(NamedTuple):
    """Where a text is: a file of the corpus, and what in it."""

    file: str
    member: str | None = None

    @property
    def source(self) -> str:
        """Its name in the corpus: `books.zip/author/title.txt`."""
        return f"{self.file}/{posixpath.normpath(self.member)}" if self.member else self.file

    def row(self, number: int) -> Place:
        """A row of it, counted from 0."""
        row = f"row {number}"
        return Place(self.file, f"{self.member}, {row}" if self.member else row)


@dataclass(frozen=True)
class TextOrigin:
    """Where a text came from: the file and the part of it, how its `bytes` bytes became text and
    how many of them U+FFFD, and their sha256.
    """

    file: str
    member: str | None
    encoding: str
    how: str
    bytes: int
    sha256: str
    replaced: int = 0


@dataclass(frozen=True)
class Document:
    """One text from its reader to the shards.

    `source` says which file or files it came from; an unknown `author` is None. `form` is
    `book`, or `sentences` for a run of rows of one sentence each, which has no book boundaries.
    A reader leaves `id` empty where the name decides which book a text belongs to, and `title`
    where nothing but the name says it; `order` is its
    place among the texts of one book, `origins` are the files it was made from.
    """

    id: str
    title: str
    author: str | None
    source: str
    text: str = field(repr=False)
    form: str = "book"
    order: str = "0"
    origins: tuple[TextOrigin, ...] = ()


@dataclass(frozen=True)
class SkippedFile:
    """A file, member or row that gave no document: where it is, the rule it broke, what was found,
    what was expected and what to do.
    """

    file: str
    member: str | None
    rule: str
    found: str
    expected: str
    do: str

    def sentence(self) -> str:
        """All of it on one line."""
        where = f"{self.file}, {self.member}" if self.member else self.file
        return f"{where}: {self.found}; expected {self.expected}. {self.do} ({self.rule})"


RULES = {
    "empty": ("the text of a book", "Remove it, or add its text."),
    "nul": ("text", "Convert it to UTF-8, or remove it."),
    "invalid_utf8": ("UTF-8", "Convert it, remove it, or choose another `fallback_encoding`."),
    "undecodable": ("UTF-8, UTF-16, Windows-1252 or Latin-1", "Convert it, or remove it."),
    "damaged": ("a complete file", "Download it again."),
    "invalid_epub": ("an EPUB as its standard says", "Repair it in an EPUB editor, or remove it."),
    "unsupported": ("a member packed with Deflate, bzip2 or LZMA", "Pack it again."),
    "unreadable_content": ("a file as its format says", "Check it, or remove it."),
    "reader_died": ("a file that takes bounded time and memory", "Check it, or remove it."),
    "bomb": ("at most {limit}", "Split it, or raise `{setting}` if you trust it."),
    "too_large": ("at most {limit} bytes", "Split it, or raise `max_document`."),
    "long_line": ("at most {limit}", "Break its lines, remove it, or raise `max_line`."),
    "unsafe_path": ("a relative name without `..`", "Do not trust this archive, or repack it."),
    "bad_name": ("a name in UTF-8 that can be printed", "Rename it."),
    "not_a_file": ("a regular file", "Put the file itself there."),
    "encrypted": ("a file without a password or DRM", "Unpack it yourself, or remove it."),
    "nested": ("text, EPUB or JSON lines inside", "Put the inner archive next to the others."),
    "unknown_form": ("{formats}", "Skipped."),
    "same_name": ("one text per place", "Rename it if it is a different text."),
    "no_text_column": ("one column {column!r} of text", "Set `text_column` to its name."),
    "bad_row": ("one JSON object per line, its text a string", "Fix the line."),
    "missing_shard": ("every shard counted in the file names", "Download it."),
    "loop": ("a tree without loops", "Remove the link."),
    "unreadable": ("a readable file", "Fix its permissions or the link."),
    "unreadable_folder": ("a readable folder", "Fix its permissions."),
}
"""Why a file is skipped: what was expected, and what to do."""


class UnreadableFileError(Exception):
    """A text that cannot be read: the key in RULES, what was found, and what the rule's sentences
    need.
    """

    def __init__(self, rule: str, found: str, **values: object) -> None:
        super().__init__(found)
        self.rule, self.found, self._values = rule, found, values

    def at(self, place: Place) -> SkippedFile:
        """The record of it, with nothing in it that is long or cannot be printed."""
        member = place.member and printable(place.member, _SHOWN)
        expected, do = (words.format(**self._values) for words in RULES[self.rule])
        found, expected = printable(self.found, _SHOWN), printable(expected, _SHOWN)
        return SkippedFile(place.file, member, self.rule, found, expected, do)


Read = Iterator[Document | SkippedFile]


def guarded(documents: Read, place: Place) -> Read:
    """What a reader yields at a place; whatever it raises, or its yielding nothing, becomes one
    skipped file.

    Raises UserError alone, which is no fault of the file: it cannot be had, or is another one now.
    """
    empty = True
    try:
        for found in documents:
            empty = False
            yield found
    except UserError:
        raise
    except UnreadableFileError as error:
        yield error.at(place)
    except Exception as error:  # libraries raise whatever a file makes them raise
        how = f"its reader failed with {type(error).__name__}: {first_line(error)}"
        yield UnreadableFileError("unreadable_content", how).at(place)
    else:
        if empty:
            yield UnreadableFileError("empty", "it is empty").at(place)


def damaged(how: str) -> UnreadableFileError:
    """A file that was cut or overwritten."""
    return UnreadableFileError("damaged", f"cut short or damaged ({how})")


def too_large(limit: int) -> UnreadableFileError:
    """A text above the ceiling."""
    return UnreadableFileError("too_large", f"a text of more than {limit} bytes", limit=limit)


def first_line(error: Exception) -> str:
    """The first line of what an exception says, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def printable(text: str, most: int = sys.maxsize) -> str:
    """The text with what cannot be printed or encoded written as escapes, cut after `most`
    characters.
    """
    rest = f"... ({len(text)} characters)" if len(text) > most else ""
    return "".join(map(_escaped, text[:most])) + rest


def _escaped(letter: str) -> str:
    if letter.isprintable() or unicodedata.category(letter) == "Zs":
        return letter
    if "\udc80" <= letter <= "\udcff":  # a byte of a name that is no UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


# ---------------------------------------------------------------------------------------------
# Books in Parquet files, and other small tables: equal rows give equal bytes

_COMPRESSION: Mapping[str, Any] = {"compression": "zstd", "compression_level": 3}


def book_schema() -> pa.Schema:
    """The columns of books."""
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("id", "title", "author", "source", "form")]
    return pa.schema([*texts, ("text", pa.large_string())])


def write_books(file: IO[bytes], books: Iterable[Document]) -> int:
    """Write the books in the order given; returns how many. Few are held in memory at a time."""
    return write_rows(file, book_schema(), (vars(book) for book in books))


def read_books(path: Path) -> Iterator[Document]:
    """The books of a part, in the order in which they were written.

    UserError when the file is damaged.
    """
    for row in read_rows(path):
        yield Document(**row)


def write_rows(
    file: IO[bytes], schema: pa.Schema, rows: Iterable[Mapping[str, Any]],
    most_rows: int = 8, most_characters: int = 16_000_000,
) -> int:
    """Write rows under a schema, at most `most_rows` in a row group, fewer where their texts are
    large; returns how many. Who reads them holds a row group at a time.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    written = size = 0
    some: list[Mapping[str, Any]] = []
    with pq.ParquetWriter(file, schema, **_COMPRESSION) as writer:

        def write() -> None:
            writer.write_table(pa.Table.from_pylist(some, schema=schema))
            some.clear()

        for row in rows:
            some.append(row)
            written += 1
            size += len(row.get("text") or "")
            if len(some) == most_rows or size > most_characters:
                write()
                size = 0
        if some:
            write()
    return written


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file written by `write_rows`. UserError when the file is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                yield from file.read_row_group(index).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: not a complete Parquet file ({first_line(error)}); run the stage that made"
            " it again."
        ) from error


def write_table(file: IO[bytes], schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a small table whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), file, **_COMPRESSION)
