"""ingest: read books in any common format into Parquet parts; a new book rewrites only one part.

Each archive, Parquet file or JSON lines file is read once, and its texts are spooled by the
partition of their book. A partition then collects its books from all spools and from single files.
Each depends only on the content it is built from.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from gpt1.corpus import demo_corpus
from gpt1.corpus.assemble import (
    SkippedFiles,
    assemble,
    assign_to_book,
    part_name,
    partition_of,
    read_run,
    sort_key_of,
    title_and_author,
    write_runs,
)
from gpt1.corpus.demo_corpus import Folder
from gpt1.corpus.discover import format_of, list_sources, skipped_when_listed
from gpt1.corpus.document import (
    LEFT_OUT,
    LOST,
    Document,
    ReadingConfig,
    SkippedFile,
    SourceFile,
    TextOrigin,
    write_books,
)
from gpt1.corpus.isolation import read_isolated
from gpt1.errors import UserError
from gpt1.format import counted
from stages.contract import Artifact, Context, ExternalFile, Output, Part, Stage, runtime_field

EMBEDDED = "embedded"
# In front of the embedded corpus's file names, so that a folder with files of the same names is
# another corpus.
_MARK = "embedded:"
_COUNTED = ("books", "files", "bytes", "characters", "words", "stretches")


class IngestSettings(ReadingConfig):
    source: str | tuple[str, ...] = runtime_field(
        EMBEDDED,
        "`embedded` (the demo's corpus), a folder, a file, `hf://datasets/OWNER/NAME@REVISION`, any"
        " URL that fsspec opens, or a list of these.",
        min_length=1,
    )
    folders: tuple[Folder, ...] = Field(
        demo_corpus.FOLDERS, min_length=1, description="Folders of the embedded corpus to use."
    )
    num_partitions: int = Field(
        16, ge=1, le=4096,
        description="Number of partitions; a hash of a book's id picks its partition.",
    )
    chapter_pattern: str | None = Field(
        None, min_length=1,
        description="Regular expression whose one group captures the chapter number in a file name;"
        " matching files are joined into one book.",
    )
    on_error: Literal["record", "stop"] = runtime_field(
        "record", "When a file cannot be read: record it and continue, or stop."
    )

    @field_validator("folders")
    @classmethod
    def _in_one_order(cls, folders: tuple[Folder, ...]) -> tuple[Folder, ...]:
        return tuple(name for name in demo_corpus.FOLDERS if name in folders)

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
    def reading(self) -> ReadingConfig:
        """What decides the texts: the same bytes and the same of this give the same documents."""
        chosen = {name: getattr(self, name) for name in ReadingConfig.model_fields}
        if self.embedded:
            chosen["fallback_encoding"] = demo_corpus.FALLBACK
        return ReadingConfig(**chosen)

    @property
    def chapters(self) -> str | None:
        return demo_corpus.CHAPTERS if self.embedded else self.chapter_pattern


class Ingest(Stage):
    """Reads every file once, groups chapters into books, spreads the books over partitions by a
    hash of their ids.
    """

    version = 4  # chapters without a folder; the limits of a zip; ranges of missing shards
    settings_model = IngestSettings
    is_coordinator = True

    @classmethod
    def external_files(cls, settings: IngestSettings) -> list[ExternalFile]:
        if settings.embedded:
            return [
                ExternalFile(f"{_MARK}{name}", path)
                for name, path in demo_corpus.embedded_files(settings.folders).items()
            ]
        return [_external(file) for file in list_sources(settings.sources).files]

    def run(self, settings: IngestSettings, context: Context) -> None:
        listed = [
            SourceFile(file.name.removeprefix(_MARK), file.url or str(file.path), file.digest)
            for file in context.external_files
        ]
        skipped = [found for file in listed if (found := skipped_when_listed(file))]
        if skipped and settings.on_error == "stop":
            raise UserError(skipped[0].sentence())
        _write_left_out(settings, context)
        files: dict[bool, list[SourceFile]] = {True: [], False: []}
        for file in listed:
            kind = format_of(file.name)
            if kind and not skipped_when_listed(file):
                files[kind.holds_many].append(file)
        packed = _spool_parts(settings, context, files[True])
        spools = context.map_parts(spool_part, packed) if packed else []
        named = dict(zip([file.name for file in files[True]], spools, strict=True))
        made = context.map_parts(ingest_part, _book_parts(settings, files[False], named))
        for part in made:
            context.add_files_of(part)
        with context.open("refused/sources.jsonl") as out:
            for record in skipped:
                line = json.dumps(vars(record), ensure_ascii=False, sort_keys=True)
                out.write(line.encode() + b"\n")
            for spool in spools:
                out.write(context.fetch(spool.file("refused.jsonl")).read_bytes())
        _sum_up(context, skipped, spools, made)


def _write_left_out(settings: IngestSettings, context: Context) -> None:
    """Files that are no books by their names are no part of the corpus: they are reported and
    listed, and change nothing.
    """
    names = [] if settings.embedded else list_sources(settings.sources).left_out
    if names:
        text = "".join(f"{name}\n" for name in names)
        context.output("left_out.txt", volatile=True).write_text(text, encoding="utf-8")
        context.info(
            f"skipped {counted(len(names), 'file')} with an unsupported name: {_first(names)}"
        )


def _external(file: SourceFile) -> ExternalFile:
    url = file.location if "://" in file.location else None
    return ExternalFile(file.name, Path(file.name if url else file.location), file.digest, url)


def _spool_parts(
    settings: IngestSettings, context: Context, files: Sequence[SourceFile]
) -> list[Part]:
    parts = []
    for file in files:
        identity = {
            "name": file.name, "digest": file.digest, "parts": settings.num_partitions,
            "chapters": settings.chapters, "reading": settings.reading.semantic(),
        }  # fmt: skip
        elsewhere = {
            "file": file, "reading": settings.reading, "on_error": settings.on_error,
            "reporter": context.reporter,
        }
        parts.append(Part(file.name, identity, {**identity, **elsewhere}))
    return parts


def _book_parts(
    settings: IngestSettings, files: Sequence[SourceFile], spools: Mapping[str, Artifact]
) -> list[Part]:
    loose: list[list[SourceFile]] = [[] for _ in range(settings.num_partitions)]
    for file in sorted(files, key=lambda file: sort_key_of(file.name, settings.chapters)):
        book = sort_key_of(file.name, settings.chapters).book
        loose[partition_of(book, settings.num_partitions)].append(file)
    parts = []
    for number, its_files in enumerate(loose):
        name = part_name(number)
        runs = {origin: spool.under(f"runs/{name}/") for origin, spool in spools.items()}
        identity = {
            "part": name, "files": {file.name: file.digest for file in its_files},
            "chapters": settings.chapters, "reading": settings.reading.semantic(),
            "runs": {origin: [run.sha256 for run in some] for origin, some in runs.items() if some},
            "naming": EMBEDDED if settings.embedded else "folder",
        }  # fmt: skip
        elsewhere = {
            "files": its_files, "reading": settings.reading, "on_error": settings.on_error,
            "runs": [run for some in runs.values() for run in some],
        }
        parts.append(Part(name, identity, {**identity, **elsewhere}))
    return parts


def spool_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Read one archive, Parquet file or file of JSON lines; write its texts by partition, and what
    was skipped.
    """
    file = arguments["file"]

    def on_read(count: int, size: int | None) -> None:
        if size and count < 0.99 * size:  # the part that is made reports the end
            done, total = round(count / 1e6, 1), round(size / 1e6, 1)
            arguments["reporter"].progress(done, total, "MB", file.name)

    with output.open("refused.jsonl") as lines:
        skipped = SkippedFiles(lines, arguments["on_error"])
        found = read_isolated([file], arguments["reading"], on_read)
        texts = _assign(found, skipped, arguments["chapters"])
        write_runs(texts, arguments["parts"], output.open)
        return skipped.close()


def ingest_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Collect the books of one partition from the spools and from single files; write them, and
    where they came from.
    """
    name, reading = arguments["part"], arguments["reading"]
    counts: Counter[str] = Counter(dict.fromkeys(_COUNTED, 0))
    encodings: Counter[str] = Counter()
    authors: set[str] = set()
    is_embedded = arguments["naming"] == EMBEDDED
    names = demo_corpus.embedded_naming if is_embedded else title_and_author
    with (
        output.open(f"books/{name}.parquet") as books,
        output.open(f"records/{name}.jsonl") as records,
        output.open(f"refused/{name}.jsonl") as lines,
    ):
        skipped = SkippedFiles(lines, arguments["on_error"])
        found = read_isolated(arguments["files"], reading)
        loose = _assign(found, skipped, arguments["chapters"], names)
        runs = [loose, *(read_run(Path(path)) for path in arguments["runs"])]

        def assembled() -> Iterator[Document]:
            for book in assemble(runs, skipped.add, reading.max_document):
                files = [_origin_record(origin) for origin in book.origins]
                about = {"title": book.title, "author": book.author, "form": book.form}
                record = {"book": book.id, **about, "files": files}
                records.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                counts.update(
                    books=1, files=len(files), bytes=len(book.text.encode()),
                    characters=len(book.text), words=len(book.text.split()),
                    stretches=int(book.form == "sentences"),
                )  # fmt: skip
                encodings.update(origin.encoding for origin in book.origins)
                authors.update([book.author] if book.author else [])
                yield book

        write_books(books, assembled())
        summary = skipped.close()
    return {
        **counts, **summary, "authors": sorted(authors),
        "encodings": dict(sorted(encodings.items())),
    }  # fmt: skip


def _assign(
    found: Iterable[Document | SkippedFile], skipped: SkippedFiles, *naming: Any
) -> Iterator[Document]:
    """Assign the texts among what was read to their books; record the rest."""
    for item in found:
        if isinstance(item, SkippedFile):
            skipped.add(item)
        else:
            yield assign_to_book(item, *naming)


def _origin_record(origin: TextOrigin) -> dict[str, Any]:
    record = vars(origin)
    return record if origin.replaced else {k: v for k, v in record.items() if k != "replaced"}


def _sum_up(
    context: Context, skipped: Sequence[SkippedFile], spools: Sequence[Artifact],
    made: Sequence[Artifact],
) -> None:
    first = [one.sentence() for one in skipped]
    counts = Counter(one.rule for one in skipped)
    totals, encodings = Counter[str](), Counter[str]()
    for part in (*spools, *made):
        counts.update(part.summary["refused"])
        first += part.summary["first_refused"]
    for part in made:
        totals.update({key: part.summary[key] for key in _COUNTED})
        encodings.update(part.summary["encodings"])
    if not totals["books"]:
        raise UserError(
            f"ingest: no book could be read; {_first(first) or 'all archives are empty'}"
        )
    left_out, refused = (
        {rule: counts[rule] for rule in sorted(counts) if (rule in LEFT_OUT) is kind}
        for kind in (True, False)
    )
    authors = {author for part in made for author in part.summary["authors"]}
    runs = totals.pop("stretches")
    by_encoding = dict(sorted(encodings.items()))
    context.summary({
        **totals, "authors": len(authors), "encodings": by_encoding, "refused": refused,
        "left_out": left_out, "stretches_of_sentences": runs,
        **({"lost": f"in runs of sentences: {LOST}"} if runs else {}),
    })  # fmt: skip
    context.info(
        f"{counted(totals['books'], 'book')} from {counted(totals['files'], 'file')},"
        f" {totals['words']:,} words, {totals['bytes'] / 1e6:.1f} MB;"
        f" {', '.join(f'{number} {name}' for name, number in by_encoding.items())}"
    )
    if runs:
        context.info(f"{runs} of the books are runs of one-sentence rows; lost: {LOST}")
    if refused:
        by_rule = ", ".join(f"{rule} {number}" for rule, number in refused.items())
        context.info(f"{sum(refused.values())} refused ({by_rule}); see refused/: {_first(first)}")


def _first(words: Sequence[str], most: int = 3) -> str:
    more = f"; and {len(words) - most} more" if len(words) > most else ""
    return "; ".join(words[:most]) + more


STAGE = Ingest()
