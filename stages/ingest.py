"""ingest: read books in any common format into Parquet parts; a new book rewrites only one part.

Each archive, Parquet file or JSON lines file is read once, and its texts are spooled by the part of
their book. A part then collects its books from all spools and from single files. Each part depends
only on the content it is built from.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from gpt1.corpus.book import bucket, part_name
from gpt1.corpus.demo_corpus import CHAPTERS, FALLBACK, FOLDERS, Folder, embedded_files
from gpt1.corpus.discover import list_sources
from gpt1.corpus.document import LEFT_OUT
from gpt1.corpus.grouping import shelf_of
from gpt1.corpus.readers.forms import form_of
from gpt1.corpus.readers.limits import MIB
from gpt1.corpus.readers.listed import Listed, refusal
from gpt1.corpus.readers.rows import LOST
from gpt1.errors import UserError
from gpt1.format import counted
from stages._ingest_parts import ingest_part, spool_part
from stages.contract import Artifact, Context, ExternalFile, Part, Settings, Stage, runtime_field

EMBEDDED = "embedded"
# In front of the embedded corpus's file names, so that a folder with files of the same names is
# another corpus.
_MARK = "embedded:"


class IngestSettings(Settings):
    source: str | tuple[str, ...] = runtime_field(
        EMBEDDED,
        "`embedded` (the demo's corpus), a folder, a file, `hf://datasets/OWNER/NAME@REVISION`, any"
        " URL that fsspec opens, or a list of these.",
        min_length=1,
    )
    folders: tuple[Folder, ...] = Field(
        FOLDERS, min_length=1, description="Folders of the embedded corpus to use."
    )
    num_partitions: int = Field(
        16, ge=1, le=4096,
        description="Number of partitions; a hash of a book's id picks its partition.",
    )
    chapter_pattern: str | None = Field(
        None,
        min_length=1,
        description=(
            "Regular expression whose one group captures the chapter number in a file name;"
            " matching files are joined into one book."
        ),
    )
    fallback_encoding: Literal["detect", "none", "windows-1252", "latin-1"] = Field(
        "detect",
        description=(
            "For files that are neither UTF-8 nor UTF-16: `detect` reads them as Windows-1252 or"
            " Latin-1, or refuses them; `none` refuses them all."
        ),
    )
    text_column: str = Field(
        "text", min_length=1, description="Column with the text in Parquet and JSON lines files.",
    )
    rows: Literal["auto", "documents", "sentences"] = Field(
        "auto",
        description="What one row of a Parquet or JSON lines file holds (docs/reference/books.md).",
    )
    sentences_per_document: int = Field(
        6_700, ge=1, le=10_000_000,
        description=(
            "Sentences per document when each row is one sentence; BooksCorpus has 6,704 per book."
        ),
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
    on_error: Literal["record", "stop"] = runtime_field(
        "record",
        "When a file cannot be read: record it and continue, or stop.",
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
            raise ValueError(f"{pattern!r} is not a valid regular expression: {error}") from error
        if groups != 1:
            raise ValueError(
                f"{pattern!r} has {groups} groups; expected one, around the chapter's number"
            )
        return pattern

    @model_validator(mode="after")
    def _own_pattern(self) -> Self:
        if self.embedded and self.chapter_pattern is not None:
            raise ValueError(
                "chapter_pattern needs a folder as `source`; the embedded corpus has its own:"
                " remove it"
            )
        if EMBEDDED in self.sources and len(self.sources) > 1:
            raise ValueError(
                "source: `embedded` cannot be in a list; expected a list of folders, files and"
                " URLs"
            )
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def embedded(self) -> bool:
        return self.sources == (EMBEDDED,)

    @property
    def reading(self) -> dict[str, Any]:
        """What decides the texts, as plain data: the same bytes and the same of this give the
        same pieces.
        """
        return {
            "limits": {
                "document": self.max_document, "archive": self.max_archive, "ratio": self.max_ratio,
                "line": self.max_line,
            },
            "fallback": FALLBACK if self.embedded else self.fallback_encoding,
            "text_column": self.text_column, "rows": self.rows,
            "stretch": self.sentences_per_document,
        }  # fmt: skip


class Ingest(Stage):
    """Reads every file once, groups chapters into books, spreads the books over parts by a hash
    of their ids.
    """

    version = 2  # archives and rows; encodings by detection; what cannot be read is recorded
    settings_model = IngestSettings
    is_coordinator = True

    @classmethod
    def external_files(cls, settings: IngestSettings) -> list[ExternalFile]:
        if settings.embedded:
            return [
                ExternalFile(f"{_MARK}{name}", path)
                for name, path in embedded_files(settings.folders).items()
            ]
        return [_outside(file) for file in list_sources(settings.sources).files]

    def run(self, settings: IngestSettings, context: Context) -> None:
        files = [
            Listed(file.name.removeprefix(_MARK), file.url or str(file.path), file.digest)
            for file in context.external_files
        ]
        refused = [found for file in files if (found := refusal(file.name, file.digest))]
        files = [file for file in files if refusal(file.name, file.digest) is None]
        if refused and settings.on_error == "stop":
            raise UserError(refused[0].sentence())
        self._say_what_is_left_out(settings, context)
        many = [file for file in files if _many(file)]
        spools = (
            context.map_parts(spool_part, _spool_parts(settings, context, many)) if many else []
        )
        loose = [file for file in files if not _many(file)]
        made = context.map_parts(
            ingest_part,
            _book_parts(
                context, settings, loose, dict(zip([f.name for f in many], spools, strict=True))),
        )
        for part in made:
            context.add_files_of(part)
        with context.open("refused/sources.jsonl") as out:
            for found in refused:
                out.write(
                    json.dumps(vars(found), ensure_ascii=False, sort_keys=True).encode() + b"\n"
                )
            for spool in spools:
                out.write(context.fetch(spool.file("refused.jsonl")).read_bytes())
        _sum_up(
            context, made, [*spools, *made], Counter(item.rule for item in refused),
            [item.sentence() for item in refused],
        )

    @staticmethod
    def _say_what_is_left_out(settings: IngestSettings, context: Context) -> None:
        """Files that are no books by their names are no part of the corpus: they are said and
        listed, and change nothing.
        """
        names = [] if settings.embedded else list_sources(settings.sources).left_out
        if names:
            context.output("left_out.txt", volatile=True).write_text(
                "".join(f"{name}\n" for name in names), encoding="utf-8"
            )
            context.info(
                f"skipped {counted(len(names), 'file')} with an unsupported name: {_first(names)}"
            )


def _outside(file: Listed) -> ExternalFile:
    url = file.where if "://" in file.where else None
    return ExternalFile(file.name, Path(file.name if url else file.where), file.digest, url)


def _many(file: Listed) -> bool:
    form = form_of(file.name)
    return form is not None and form.many


def _spool_parts(settings: IngestSettings, context: Context, files: Sequence[Listed]) -> list[Part]:
    parts = []
    for file in files:
        identity = {
            "name": file.name, "digest": file.digest, "parts": settings.num_partitions,
            "chapters": settings.chapter_pattern, "reading": settings.reading,
        }  # fmt: skip
        elsewhere = {
            "where": file.where, "on_error": settings.on_error, "reporter": context.reporter,
        }
        parts.append(Part(file.name, identity, {**identity, **elsewhere}))
    return parts


def _book_parts(
    context: Context, settings: IngestSettings, loose: Sequence[Listed],
    spools: Mapping[str, Artifact],
) -> list[Part]:
    pattern = CHAPTERS if settings.embedded else settings.chapter_pattern
    alone: list[list[Listed]] = [[] for _ in range(settings.num_partitions)]
    for file in loose:
        alone[bucket(shelf_of(file.name, pattern).book, settings.num_partitions)].append(file)
    indexes = {
        name: json.loads(context.fetch(spool.file("index.json")).read_bytes())
        for name, spool in spools.items()
    }
    parts = []
    for number, files in enumerate(alone):
        found = {
            name: index[str(number)] for name, index in indexes.items() if str(number) in index
        }
        identity = {
            "part": number, "files": {file.name: file.digest for file in files},
            "chapters": pattern, "reading": settings.reading,
            "spools": {name: index["digest"] for name, index in found.items()},
            "naming": EMBEDDED if settings.embedded else "folder",
        }  # fmt: skip
        elsewhere = {
            "where": {file.name: file.where for file in files}, "on_error": settings.on_error,
            "runs": [
                [spools[name].file("spool.arrow"), index["runs"]]
                for name, index in found.items()
            ],
        }  # fmt: skip
        parts.append(Part(part_name(number), identity, {**identity, **elsewhere}))
    return parts


def _sum_up(
    context: Context, made: Sequence[Artifact], all_parts: Sequence[Artifact], counts: Counter[str],
    first: list[str],
) -> None:
    for part in all_parts:
        counts.update(part.summary["refused"])
        first += part.summary["first_refused"]
    left_out = {rule: number for rule, number in sorted(counts.items()) if rule in LEFT_OUT}
    refused = {rule: number for rule, number in sorted(counts.items()) if rule not in LEFT_OUT}
    totals = {
        key: sum(part.summary[key] for part in made)
        for key in ("books", "files", "bytes", "characters", "words")
    }
    if not totals["books"]:
        raise UserError(
            f"ingest: no book could be read; {_first(first) or 'all archives are empty'}"
        )
    authors = {author for part in made for author in part.summary["authors"]}
    encodings: Counter[str] = Counter()
    for part in made:
        encodings.update(part.summary["encodings"])
    stretches = sum(part.summary["stretches"] for part in made)
    context.summary({
        "books": totals["books"], "files": totals["files"], "authors": len(authors), **totals,
        "encodings": dict(sorted(encodings.items())), "refused": refused, "left_out": left_out,
        "stretches_of_sentences": stretches,
        **({"lost": f"in runs of sentences: {LOST}"} if stretches else {}),
    })  # fmt: skip
    context.info(
        f"{counted(totals['books'], 'book')} from {counted(totals['files'], 'file')},"
        f" {totals['words']:,} words, {totals['bytes'] / 1e6:.1f} MB;"
        f" {', '.join(f'{number} {name}' for name, number in sorted(encodings.items()))}"
    )
    if stretches:
        context.info(
            f"{stretches} of the books are runs of one-sentence rows; lost: {LOST}"
        )
    if refused:
        by_rule = ", ".join(f"{rule} {number}" for rule, number in refused.items())
        context.info(f"{sum(refused.values())} refused ({by_rule}); see refused/: {_first(first)}")


def _first(words: Sequence[str], most: int = 3) -> str:
    return "; ".join(words[:most]) + (
        f"; and {len(words) - most} more" if len(words) > most else ""
    )


STAGE = Ingest()
