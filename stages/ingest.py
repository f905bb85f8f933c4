"""ingest: books from the embedded corpus or a folder of .txt files, into Parquet parts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from gpt1.corpus.book import Book, BookFiles, bucket, part_name
from gpt1.corpus.embedded import CHAPTERS, FALLBACK, FOLDERS, Folder, embedded_files, embedded_naming
from gpt1.corpus.folder import text_files
from gpt1.corpus.grouping import folder_naming, group
from gpt1.corpus.text_file import file_digest, read_text
from stages.contract import Context, Output, OutsideFile, Part, Settings, Stage, placement

EMBEDDED = "embedded"
# In front of the embedded corpus's file names, so that a folder with files of the same names is another corpus.
_MARK = "embedded:"


class IngestSettings(Settings):
    source: str = placement(
        EMBEDDED, "`embedded` for the corpus that comes with the package, or a folder of .txt files.", min_length=1
    )
    folders: tuple[Folder, ...] = Field(FOLDERS, min_length=1, description="Which folders of the embedded corpus are taken.")
    parts: int = Field(
        16, ge=1, le=4096, description="The number of parts the books are spread over; a book's part depends on its id."
    )
    chapter_pattern: str | None = Field(
        None,
        min_length=1,
        description="A regular expression whose one group is the chapter's number in a file's name; such files make up one book.",
    )
    fallback_encoding: Literal["none", "windows-1252", "latin-1"] = Field(
        "none", description="How a file that is not UTF-8 is read; `none` refuses it."
    )

    @field_validator("folders")
    @classmethod
    def _in_one_order(cls, folders: tuple[Folder, ...]) -> tuple[Folder, ...]:
        return tuple(name for name in FOLDERS if name in folders)

    @field_validator("chapter_pattern")
    @classmethod
    def _a_pattern(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"{pattern!r} has {groups} groups; expected one, around the chapter's number")
        return pattern

    @model_validator(mode="after")
    def _own_pattern(self) -> Self:
        if self.source == EMBEDDED and self.chapter_pattern is not None:
            raise ValueError("chapter_pattern is for a folder; the embedded corpus has its own")
        return self


class Ingest(Stage):
    """Reads every file once, groups chapters into books, spreads the books over parts by a hash of their ids."""

    settings_model = IngestSettings
    spreads = True

    @classmethod
    def outside(cls, settings: IngestSettings) -> list[OutsideFile]:
        if settings.source == EMBEDDED:
            return [OutsideFile(f"{_MARK}{name}", path) for name, path in embedded_files(settings.folders).items()]
        return [OutsideFile(name, path) for name, path in text_files(Path(settings.source).expanduser()).items()]

    def run(self, settings: IngestSettings, context: Context) -> None:
        paths = {file.name.removeprefix(_MARK): file.path for file in context.outside}
        books = _books(settings, list(paths))
        digests = {name: file_digest(path, name) for name, path in paths.items()}
        made = context.map_parts(ingest_part, _parts(settings, books, paths, digests))
        for part in made:
            context.include(part)
        totals = {key: sum(part.summary[key] for part in made) for key in ("bytes", "characters", "words", "not_utf8")}
        authors = {book.author for book in books if book.author}
        context.summary({"books": len(books), "files": len(paths), "authors": len(authors), **totals})
        context.say(f"{len(books)} books from {len(paths)} files, {totals['words']:,} words, {totals['bytes'] / 1e6:.1f} MB")


def _books(settings: IngestSettings, names: Sequence[str]) -> list[BookFiles]:
    if settings.source == EMBEDDED:
        return group(names, CHAPTERS, embedded_naming)
    return group(names, settings.chapter_pattern, folder_naming)


def _parts(
    settings: IngestSettings, books: Sequence[BookFiles], paths: Mapping[str, Path], digests: Mapping[str, str]
) -> list[Part]:
    fallback = FALLBACK if settings.source == EMBEDDED else settings.fallback_encoding
    buckets: list[list[BookFiles]] = [[] for _ in range(settings.parts)]
    for book in books:
        buckets[bucket(book.id, settings.parts)].append(book)
    parts = []
    for number, inside in enumerate(buckets):
        rows = [
            {"id": book.id, "title": book.title, "author": book.author, "source": book.source, "files": list(book.names)}
            for book in inside
        ]
        needed = {name: digests[name] for book in inside for name in book.names}
        identity = {"part": number, "books": rows, "digests": needed, "fallback": fallback}
        arguments = {**identity, "paths": {name: str(paths[name]) for name in needed}}
        parts.append(Part(part_name(number), identity, arguments))
    return parts


def ingest_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Read the files of one part's books and write the books."""
    from gpt1.corpus.parts import write_books

    fallback = None if arguments["fallback"] == "none" else arguments["fallback"]
    books: list[Book] = []
    not_utf8 = 0
    for row in arguments["books"]:
        texts = []
        for name in row["files"]:
            text, encoding = read_text(Path(arguments["paths"][name]), name, fallback, arguments["digests"][name])
            not_utf8 += encoding != "utf-8"
            texts.append(text)
        books.append(Book(row["id"], row["title"], row["author"], row["source"], "\n\n".join(texts)))
    with output.open(f"books/{part_name(arguments['part'])}.parquet") as file:
        write_books(file, books)
    return {
        "books": len(books),
        "bytes": sum(len(book.text.encode()) for book in books),
        "characters": sum(len(book.text) for book in books),
        "words": sum(len(book.text.split()) for book in books),
        "not_utf8": not_utf8,
    }


STAGE = Ingest()
