"""Every form gives the same books."""

from __future__ import annotations

from dataclasses import replace

from gpt1.corpus.sources.forms import form_of, hidden, without_suffix
from gpt1.corpus.sources.html_text import html_text
from tests.gpt1.corpus.forms_of_books import (
    BOOKS,
    SMALL,
    epub_of,
    jsonl_of,
    packed,
    page,
    parquet_of,
    read,
    zip_of,
)  # fmt: skip


def test_two_streams_behind_one_another_are_one_text() -> None:
    for codec in (".gz", ".bz2", ".xz", ".zst"):
        pieces, _ = read(packed(b"one ", codec) + packed(b"two", codec), f"a.txt{codec}")
        assert pieces["a"].text == "one two"


def test_an_epub_is_read_in_the_order_of_its_spine() -> None:
    for name, text in BOOKS.items():
        author, title = name.split("/")
        first, _, rest = text.partition("\n\n")
        pages = {"b.xhtml": page(first), "a.xhtml": page(rest or "Fin.")}
        [piece] = read(epub_of(title, author, pages), "library/x.epub")[0].values()
        assert (piece.title, piece.author, piece.book) == (title, author, "library/x")
        assert piece.text == f"{first.strip()}\n\n{(rest or 'Fin.').strip()}"
    inside, refused = read(zip_of({"x.epub": epub_of("T", "A", {"a.xhtml": page("Words.")})}), "books.zip")
    assert (refused, inside["books.zip/x"].text) == ([], "Words.")


def test_markup_becomes_paragraphs() -> None:
    html = (
        "<body><h1>One</h1><p>He <i>said</i>:\n  &#8220;no&#8221;<br/>and &amp;\tleft.</p>"
        "<script>var a = '<p>x</p>';</script><p> </p>"
        "<pre>a\n  b</pre><div>c<p>d</div><ul><li>e<li>f</ul></body>"
    )
    assert html_text(html).split("\n\n") == ["One", "He said: “no”\nand & left.", "a\n  b", "c", "d", "e", "f"]


def test_names_tell_the_form() -> None:
    kinds = {name: (form.kind, form.codec) if (form := form_of(name)) else None for name in (
        "a.txt", "A.TXT.GZ", "a.md", "a.tar.xz", "a.tzst", "a.zip", "a.zip.gz", "a.csv", "a", "a.jsonl.bz2", "a.gz",
    )}  # fmt: skip
    assert list(kinds.values()) == [
        ("text", None), ("text", "gz"), ("text", None), ("tar", "xz"), ("tar", "zst"), ("zip", None), None, None, None,
        ("jsonl", "bz2"), None,
    ]  # fmt: skip
    assert [without_suffix(name) for name in ("x/Mr. Smith v1.5.txt.gz", "x/a.b", "a.tgz")] == ["x/Mr. Smith v1.5", "x/a.b", "a"]
    assert all(hidden(name) for name in (".a", "a/.b/c", "__MACOSX/a.txt"))
    assert not any(hidden(name) for name in ("./a", "../a", "a.b"))


def test_rows_of_one_sentence_become_stretches() -> None:
    rows: list[dict[str, object]] = [{"text": f"sentence number {number} ."} for number in range(250)]
    reading = replace(SMALL, stretch=100)
    for name, data in (("s.parquet", parquet_of(rows, 64)), ("s.jsonl", jsonl_of(rows))):
        pieces, refused = read(data, name, reading)
        assert refused == []
        assert list(pieces) == [f"{name}/rows-{start:012d}" for start in (0, 100, 200)]
        assert {piece.form for piece in pieces.values()} == {"sentences"}
        assert pieces[f"{name}/rows-{100:012d}"].title == "s, rows 100 to 199"
        assert "\n".join(piece.text for piece in pieces.values()).split("\n") == [row["text"] for row in rows]
    assert len(read(jsonl_of(rows), "s.jsonl", replace(reading, rows="documents"))[0]) == 250
    assert len(read(jsonl_of(rows[:50]), "s.jsonl", reading)[0]) == 50
    assert len(read(jsonl_of([{**row, "title": "t", "id": index} for index, row in enumerate(rows)]), "s.jsonl", reading)[0]) == 250
    assert len(read(jsonl_of([{"text": "two\nlines"}, *rows]), "s.jsonl", reading)[0]) == 251


def test_another_text_column() -> None:
    rows = [{"content": "words"}]
    for name, data in (("a.parquet", parquet_of(rows)), ("a.jsonl", jsonl_of(rows))):  # type: ignore[arg-type]
        assert [piece.text for piece in read(data, name, replace(SMALL, text_column="content"))[0].values()] == ["words"]
