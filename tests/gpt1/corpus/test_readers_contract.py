"""What every form of source promises: the same books give the same texts, and the same faults the same rules."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt1.corpus.grouping import placed
from gpt1.corpus.sources.container import read_container
from gpt1.corpus.sources.forms import Form, form_of
from gpt1.corpus.sources.listing import list_sources
from gpt1.corpus.sources.member import loose_books
from gpt1.corpus.sources.piece import Piece, Refused, RefusedError
from gpt1.corpus.sources.place import opened, read_file
from tests.gpt1.corpus.forms_of_books import BOOKS, SMALL, epub_of, packed, page, rules, tar_of, write, zip_of

Books = Mapping[str, bytes]
Files = dict[str, bytes]
PLAIN = {".txt", ".md", ".jsonl"}  # nothing in the file says where it ends
CODECS = ("", ".gz", ".bz2", ".xz", ".zst")


def texts(books: Books, suffix: str = ".txt", codec: str = "") -> Files:
    return {f"{name}{suffix}{codec}": packed(data, codec) for name, data in books.items()}


def lines(books: Books) -> bytes:
    """JSON lines, with bytes that are no UTF-8 as they are."""
    rows = [{**about(name), "text": data.decode(errors="surrogateescape")} for name, data in books.items()]
    return b"".join(json.dumps(row, ensure_ascii=False).encode(errors="surrogateescape") + b"\n" for row in rows)


def parquet(books: Books, group: int | None = None) -> bytes:
    """A Parquet file whose texts may be no UTF-8."""
    columns = {key: [about(name)[key] for name in books] for key in ("id", "title", "author")}
    table = pa.table({**columns, "text": pa.array(list(books.values()), pa.binary()).view(pa.string())})
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=group)
    return out.getvalue()


def about(name: str) -> dict[str, str]:
    author, title = name.split("/")
    return {"id": name, "title": title, "author": author}


def epubs(books: Books) -> Files:
    made = {}
    for name, data in books.items():
        raw = page("TEXT").encode().replace(b"TEXT", data.strip().replace(b"\n\n", b"</p><p>"))
        said = about(name)
        made[f"{name}.epub"] = epub_of(said["title"], said["author"], {"a.xhtml": ""}, {"OEBPS/text/a.xhtml": raw})
    return made


FORMS: dict[str, Callable[[Books], Files]] = {
    **{f".txt{codec}": lambda books, codec=codec: texts(books, codec=codec) for codec in CODECS},
    ".md": lambda books: texts(books, ".MD"),
    **{f".tar{codec}": lambda books, codec=codec: {f"b.tar{codec}": packed(tar_of(texts(books)), codec)} for codec in CODECS},
    ".tgz": lambda books: {"b.tgz": packed(tar_of(texts(books)), ".gz")},
    ".gz in .tar": lambda books: {"b.tar": tar_of(texts(books, codec=".gz"))},
    ".zip": lambda books: {"b.zip": zip_of(texts(books))},
    ".jsonl in .zip": lambda books: {"b.zip": zip_of({"rows.jsonl": lines(books)})},
    **{f".jsonl{codec}": lambda books, codec=codec: {f"b.jsonl{codec}": packed(lines(books), codec)} for codec in CODECS},
    ".parquet": lambda books: {"b.parquet": parquet(books)},
    ".parquet in groups": lambda books: {"b.parquet": parquet(books, 1)},
    ".epub": epubs,
    ".epub in .zip": lambda books: {"b.zip": zip_of(epubs(books))},
    ".epub in .tar": lambda books: {"b.tar": tar_of(epubs(books))},
}

BYTES = {name: text.strip().encode() for name, text in BOOKS.items()}
READING = replace(SMALL, limits=replace(SMALL.limits, document=100_000, line=1000))
FAULTS = {
    "empty": (b"", b" \r\n "),
    "nul": (b"a\0b",),
    "invalid_utf8": ("\u201c\u00c7a\u201d".encode()[:-1], "caf\u00e9 ".encode() * 20 + b"\xff"),
    "long_line": (b"x" * 1001, b"short\n" + b"x" * 1001),
    "too_large": (b"some words\n" * 20_000,),
}


def found_in(folder: Path, files: Files) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The texts of these files by author and title, and the place and rule of each refusal; read from a folder as ingest does."""
    write(folder, files)
    texts: dict[str, str] = {}
    refused: list[tuple[str, str]] = []
    for file in list_sources([str(folder)]).files:
        form = form_of(file.name)
        assert form is not None
        try:
            with opened(file) as (stream, size):
                if form.many:
                    found = list(read_container(stream, size, form, file.name, READING))
                else:
                    found = list(loose_books(read_file(file, READING.limits.document), form, file.name, READING))
        except RefusedError as error:
            found = [error.at(file.name)]
        refused += [
            (f"{file.name}, {member}", rule) for member, rule in rules([item for item in found if isinstance(item, Refused)])
        ]
        for piece in (placed(item, None)[0] for item in found if isinstance(item, Piece)):
            name = f"{piece.author}/{piece.title}"
            assert name not in texts
            assert str(piece.book).endswith(name)
            assert str(piece.book).startswith(f"{file.name}/" if form.many else name)
            assert piece.size == len(piece.text.encode()) or piece.encoding == "epub"
            texts[name] = piece.text
    return texts, refused


def expected(books: Books) -> dict[str, str]:
    return {name: data.decode() for name, data in books.items()}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_books_give_the_same_texts(form: str, tmp_path: Path) -> None:
    assert found_in(tmp_path, FORMS[form](BYTES)) == (expected(BYTES), [])


@pytest.mark.parametrize("form", FORMS)
def test_a_faulty_book_costs_itself_alone_by_the_same_rule(form: str, tmp_path: Path) -> None:
    good = {"A/First": b"Words.", "Z/Last": b"More words."}
    for rule, faulty in FAULTS.items():
        for number, data in enumerate(faulty):
            books = {"A/First": good["A/First"], "M/Bad": data, "Z/Last": good["Z/Last"]}
            texts, [(where, found)] = found_in(tmp_path / rule / str(number), FORMS[form](books))
            assert (texts, found) == (expected(good), rule), number
            assert "M/Bad" in where or where.endswith("row 1")


@pytest.mark.parametrize("form", [form for form in FORMS if form not in PLAIN])
def test_a_file_cut_short_is_damaged_and_gives_nothing_else(form: str, tmp_path: Path) -> None:
    for name, data in FORMS[form](BYTES).items():
        end = len(data.rstrip(b"\0"))  # of a tar
        for cut in (end // 3, end // 2):
            texts, refused = found_in(tmp_path / str(cut), {name: data[:cut]})
            assert {rule for _, rule in refused} == {"damaged"}
            assert texts.items() <= expected(BYTES).items()


@pytest.mark.parametrize("form", FORMS)
def test_a_file_without_books_is_empty(form: str, tmp_path: Path) -> None:
    for name in FORMS[form](BYTES):
        texts, [(_, rule)] = found_in(tmp_path / name, {name: b""})
        assert (texts, rule) == ({}, "empty")
    for name, data in FORMS[form]({}).items():
        texts, [(_, rule)] = found_in(tmp_path / "no books", {name: data})
        assert (texts, rule) == ({}, "empty")


def test_a_title_that_is_no_utf_8_costs_no_text() -> None:
    out = io.BytesIO()
    titles = pa.array([b"caf\xe9", b"Good"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"author": ["A", "B"], "title": titles, "text": ["one", "two"]}), out)
    found = list(read_container(out, out.tell(), Form("parquet", None, ".parquet"), "b.parquet", READING))
    assert [(item.title, item.text) for item in found if isinstance(item, Piece)] == [("caf\\xe9", "one"), ("Good", "two")]
