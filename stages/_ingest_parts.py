"""The two functions ingest runs on the cluster: spool one archive, assemble one partition."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.corpus.book import Book, part_name, words_in
from gpt1.corpus.demo_corpus import embedded_naming
from gpt1.corpus.document import Refused, RefusedError, naming
from gpt1.corpus.grouping import placed, shelf_of
from gpt1.corpus.readers.forms import form_of
from gpt1.corpus.readers.limits import Limits, Reading
from gpt1.corpus.readers.listed import Listed
from stages.contract import Output, Reporter

if TYPE_CHECKING:
    from gpt1.corpus.partition import Ordered
    from gpt1.corpus.skipped import Refusals

_EVERY = 1.0  # seconds between two words about progress


def spool_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Read one archive, Parquet file or file of JSON lines; write its pieces by bucket, the
    index, and what was refused.
    """
    from gpt1.corpus.io import opened
    from gpt1.corpus.partition import SpoolWriter
    from gpt1.corpus.readers.container import read_container
    from gpt1.corpus.skipped import Refusals

    file = Listed(arguments["name"], arguments["where"], arguments["digest"])
    form = form_of(file.name)
    assert form is not None
    with output.open("spool.arrow") as spool, output.open("refused.jsonl") as refused:
        writer = SpoolWriter(spool, arguments["parts"])
        refusals = Refusals(refused, arguments["on_error"])
        with opened(file) as (stream, size):
            moved = _teller(arguments["reporter"], size, file.name)
            for found in read_container(stream, size, form, file.name, _reading(arguments), moved):
                if isinstance(found, Refused):
                    refusals.add(found)
                else:
                    writer.add(*placed(found, arguments["chapters"]))
        index = writer.close()
        refusals.close()
    with output.open("index.json") as out:
        out.write(json.dumps(index, sort_keys=True).encode())
    return {"refused": dict(sorted(refusals.counts.items())), "first_refused": refusals.first}


def ingest_part(arguments: Mapping[str, Any], output: Output) -> Mapping[str, Any]:
    """Gather the books of one bucket from the spools and the files that lie by themselves; write
    them, and where they came from.
    """
    from gpt1.corpus.assemble import gather
    from gpt1.corpus.parquet_io import write_books
    from gpt1.corpus.partition import read_runs
    from gpt1.corpus.skipped import Refusals

    name = part_name(arguments["part"])
    counted: Counter[str] = Counter()
    encodings: Counter[str] = Counter()
    authors: set[str] = set()
    with (
        output.open(f"books/{name}.parquet") as books,
        output.open(f"records/{name}.jsonl") as records,
        output.open(f"refused/{name}.jsonl") as refused,
    ):
        refusals = Refusals(refused, arguments["on_error"])
        runs = [run for path, places in arguments["runs"] for run in read_runs(Path(path), places)]
        largest = arguments["reading"]["limits"]["document"]

        def gathered() -> Iterator[Book]:
            for book, record in gather([_loose(arguments, refusals), *runs], refusals.add, largest):
                records.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                counted.update(
                    books=1, files=len(record["files"]), bytes=len(book.text.encode()),
                    characters=len(book.text), words=words_in(book.text),
                    stretches=int(book.form == "sentences"),
                )  # fmt: skip
                encodings.update(file["encoding"] for file in record["files"])
                authors.update([book.author] if book.author else [])
                yield book

        write_books(books, gathered())
        refusals.close()
    keys = ("books", "files", "bytes", "characters", "words", "stretches")
    return {
        **{key: counted[key] for key in keys}, "authors": sorted(authors),
        "encodings": dict(sorted(encodings.items())),
        "refused": dict(sorted(refusals.counts.items())), "first_refused": refusals.first,
    }  # fmt: skip


def _loose(arguments: Mapping[str, Any], refusals: Refusals) -> Iterator[Ordered]:
    """The pieces of the files that lie by themselves, in the order of their books, one in memory
    at a time.
    """
    from gpt1.corpus.io import read_file
    from gpt1.corpus.partition import key
    from gpt1.corpus.readers.member import loose_books

    reading, pattern = _reading(arguments), arguments["chapters"]
    names = embedded_naming if arguments["naming"] == "embedded" else naming
    shelves = {name: shelf_of(name, pattern) for name in arguments["files"]}
    for name in sorted(shelves, key=lambda name: (shelves[name].book, shelves[name].order, name)):
        form = form_of(name)
        assert form is not None
        try:
            data = read_file(
                Listed(name, arguments["where"][name], arguments["files"][name]),
                reading.limits.document,
            )
        except RefusedError as error:
            refusals.add(error.at(name))
            continue
        for found in loose_books(data, form, name, reading):
            if isinstance(found, Refused):
                refusals.add(found)
            else:
                piece, order = placed(found, pattern, names)
                yield key(piece, order), piece


def _reading(arguments: Mapping[str, Any]) -> Reading:
    about = arguments["reading"]
    return Reading(**{**about, "limits": Limits(**about["limits"])})


def _teller(reporter: Reporter, size: int, name: str) -> Callable[[int], None]:
    """Says now and then how much of an archive is read.

    The end is not said: the part that is made says it.
    """
    told = time.monotonic()

    def moved(count: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= _EVERY and count < 0.99 * size:
            told = now
            reporter.progress(round(count / 1e6, 1), round(size / 1e6, 1), "MB", name)

    return moved
