"""What every form of source promises: equal books, equal texts; equal faults, equal rules."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from gpt1.corpus.discover import list_sources
from gpt1.corpus.readers.epub import html_text
from tests.conftest import write
from tests.gpt1.corpus import forms_of_books as forms
from tests.gpt1.corpus.forms_of_books import packed, page, read, rules

Books = Mapping[str, bytes]
Files = dict[str, bytes]
PLAIN = {".txt", ".md", ".jsonl"}  # nothing in the file says where it ends


def texts(books: Books, codec: str = "") -> Files:
    return {f"{name}.txt{codec}": packed(data, codec) for name, data in books.items()}


def epubs(books: Books) -> Files:
    pages = {name: {"a.xhtml": page(forms.text_of(data))} for name, data in books.items()}
    return {f"{name}.epub": forms.epub_of(*name.split("/")[::-1], pages[name]) for name in books}


def rows(books: Books, codec: str = "") -> Files:
    return {f"b.jsonl{codec}": packed(forms.jsonl_of(forms.as_rows(books)), codec)}


def tar(books: Books, codec: str = "") -> Files:
    return {f"b.tar{codec}": packed(forms.tar_of(texts(books)), codec)}


FORMS: dict[str, Callable[[Books], Files]] = {
    **{f".txt{codec}": partial(texts, codec=codec) for codec in forms.CODECS},
    **{f".tar{codec}": partial(tar, codec=codec) for codec in forms.CODECS},
    **{f".jsonl{codec}": partial(rows, codec=codec) for codec in forms.CODECS},
    ".md": lambda books: forms.as_files(books, ".MD"),
    ".tgz": lambda books: {"b.tgz": tar(books, ".gz")["b.tar.gz"]},
    ".gz in .tar": lambda books: {"b.tar": forms.tar_of(texts(books, ".gz"))},
    ".zip": lambda books: {"b.zip": forms.zip_of(texts(books))},
    ".jsonl in .zip": lambda books: {"b.zip": forms.zip_of(rows(books))},
    ".parquet": lambda books: {"b.parquet": forms.parquet_of(forms.as_rows(books), 2)},
    ".epub": epubs, ".epub in .zip": lambda books: {"b.zip": forms.zip_of(epubs(books))},
    ".epub in .tar": lambda books: {"b.tar": forms.tar_of(epubs(books))},
}
TEXTS = {name: text.strip() for name, text in forms.BOOKS.items()}
STRIPPED = {name: text.encode() for name, text in TEXTS.items()}
READING = forms.with_limits(max_document=100_000, max_line=1000)
LIMIT = b"x" * 1000
FAULTS = {
    "empty": (b"", b" \r\n "), "nul": (b"a\0b",),
    "invalid_utf8": ("\u201c\u00c7a\u201d".encode()[:-1], "caf\u00e9 ".encode() * 20 + b"\xff"),
    "long_line": (LIMIT + b"x", b"a\n" + LIMIT + b"x", LIMIT + b"\r\n" + LIMIT + b"x\r.\r"),
    "too_large": (b"some words\n" * 20_000,),
}


def in_folder(folder: Path, files: Files) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Texts by author and title, and place and rule of each refusal."""
    texts, refused = dict[str, str](), list[tuple[str, str]]()
    for file in list_sources([str(write(folder, files))]).files:
        pieces, others = forms.found_in(file, READING)
        refused += [(f"{file.name}, {member}", rule) for member, rule in rules(others)]
        for book, piece in pieces.items():
            name = f"{piece.author}/{piece.title}"
            assert name not in texts
            assert book in (f"{file.name}/{name}", f"{file.name}/b.jsonl/{name}", name)
            [origin] = piece.origins
            assert origin.bytes == len(piece.text.encode()) or origin.encoding == "epub"
            texts[name] = piece.text
    return texts, refused


@pytest.mark.parametrize("form", FORMS)
def test_equal_books_give_equal_texts_and_no_books_are_empty(form: str, tmp_path: Path) -> None:
    files = FORMS[form](STRIPPED)
    assert in_folder(tmp_path / "books", files) == (TEXTS, [])
    for number, item in enumerate([*dict.fromkeys(files, b"").items(), *FORMS[form]({}).items()]):
        texts, [(_, rule)] = in_folder(tmp_path / str(number), dict([item]))
        assert (texts, rule) == ({}, "empty")


@pytest.mark.parametrize("form", FORMS)
def test_a_faulty_book_costs_itself_alone_by_the_same_rule(form: str, tmp_path: Path) -> None:
    for rule, faulty in FAULTS.items():
        for number, data in enumerate(faulty):
            books = {"A/First": b"Words.", "M/Bad": data, "Z/Last": LIMIT}
            texts, [(where, found)] = in_folder(tmp_path / rule / str(number), FORMS[form](books))
            good = {"A/First": "Words.", "Z/Last": LIMIT.decode()}
            assert (texts, found) == (good, rule), number
            assert "M/Bad" in where or where.endswith("row 1")


@pytest.mark.parametrize("form", [form for form in FORMS if form not in PLAIN])
def test_a_file_cut_short_is_damaged_and_gives_nothing_else(form: str, tmp_path: Path) -> None:
    for name, data in FORMS[form](STRIPPED).items():
        end = len(data.rstrip(b"\0"))  # of a tar
        for cut in (end // 3, end // 2):
            texts, refused = in_folder(tmp_path / str(cut), {name: data[:cut]})
            assert {rule for _, rule in refused} == {"damaged"}
            assert texts.items() <= TEXTS.items()


@pytest.mark.parametrize("codec", forms.CODECS[1:])
def test_two_streams_behind_one_another_are_one_text(codec: str) -> None:
    pieces, _ = read(packed(b"one ", codec) + packed(b"two", codec), f"x/Mr. Smith v1.5.txt{codec}")
    assert {book: piece.text for book, piece in pieces.items()} == {"x/Mr. Smith v1.5": "one two"}


def test_an_epub_is_read_in_the_order_of_its_spine() -> None:
    pages = {"b.xhtml": page("One."), "a.xhtml": page("Two.\n\nThree.")}
    [(name, piece)] = read(forms.epub_of("Emma", "Austen", pages), "library/x.epub")[0].items()
    assert (name, piece.title, piece.author) == ("library/x", "Emma", "Austen")
    assert piece.text == "One.\n\nTwo.\n\nThree."


def test_markup_becomes_paragraphs() -> None:
    html = """<body><h1>One</h1><p>He <i>said</i>:\n  &#8220;no&#8221;<br/>and &amp;\tleft.</p>
<script>var a = '<p>x</p>';</script><p> </p><pre>a\n  b</pre><div>c<p>d</div>
<ul><li>e<li>f</ul></body>"""
    wanted = ["One", "He said: “no”\nand & left.", "a\n  b", "c", "d", "e", "f"]
    assert html_text(html).split("\n\n") == wanted


ROWS = [{"text": f"sentence number {number} ."} for number in range(250)]
STRETCHED = forms.with_limits(sentences_per_document=100)


@pytest.mark.parametrize("name", ["s.parquet", "s.jsonl"])
def test_rows_of_one_sentence_become_stretches(name: str) -> None:
    data = forms.parquet_of(ROWS, 64) if name == "s.parquet" else forms.jsonl_of(ROWS)
    pieces, refused = read(data, name, STRETCHED)
    assert refused == []
    assert list(pieces) == [f"{name}/rows-{start:012d}" for start in (0, 100, 200)]
    assert {piece.form for piece in pieces.values()} == {"sentences"}
    text = "\n".join(piece.text for piece in pieces.values())
    assert text.split("\n") == [row["text"] for row in ROWS]
    assert len(read(data, name, forms.with_limits(STRETCHED, rows="documents"))[0]) == 250


def test_other_rows_are_books() -> None:
    named = [{**row, "title": "t", "id": row["text"]} for row in ROWS]
    for rows in (ROWS[:50], named, [{"text": "two\nlines"}, *ROWS]):
        assert len(read(forms.jsonl_of(rows), "s.jsonl", STRETCHED)[0]) == len(rows)


def test_another_text_column() -> None:
    for name, make in (("a.parquet", forms.parquet_of), ("a.jsonl", forms.jsonl_of)):
        pieces, _ = read(make([{"content": "one"}]), name, forms.with_limits(text_column="content"))
        assert [piece.text for piece in pieces.values()] == ["one"]


def test_a_title_that_is_no_utf_8_costs_no_text() -> None:
    rows = [{"title": b"caf\xe9", "text": "one"}]
    [piece] = read(forms.parquet_of(rows), "b.parquet")[0].values()
    assert (piece.title, piece.text) == ("caf\\xe9", "one")
