"""Which files are one book, in which order, and which of two texts for one place stays."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt1.corpus.book import bucket, words_in
from gpt1.corpus.embedded import CHAPTERS, FALLBACK, embedded_files
from gpt1.corpus.gather import gather
from gpt1.corpus.grouping import placed, shelf_of
from gpt1.corpus.sources.piece import Piece, Refused
from gpt1.corpus.spool import Ordered, key
from gpt1.corpus.text_file import read_text

PATTERN = r"_ch(\d+)$"


def ordered(*names: str, pattern: str | None = None) -> list[Ordered]:
    pieces = [
        placed(Piece(name, name, name, None, "words", "utf-8", "", 5, ""), pattern)
        for name in names
    ]
    return sorted((key(piece, order), piece) for piece, order in pieces)


def test_the_embedded_corpus_is_complete_and_grouped_into_books() -> None:
    files, books = embedded_files(), dict[str, list[str]]()
    shelves = {name: shelf_of(name, CHAPTERS) for name in files}
    for name in sorted(files, key=lambda name: (shelves[name].book, shelves[name].order)):
        books.setdefault(shelves[name].book, []).append(name)
    assert sum(path.stat().st_size for path in files.values()) > 9_800_000
    assert (len(books), len(files)) == (48, 148)
    odyssey = [f"homer/Homer_Odyssey_book{number:02d}.txt" for number in range(1, 26)]
    assert books["homer/Homer_Odyssey"] == odyssey
    encodings = {name: read_text(path, name, FALLBACK)[1] for name, path in files.items()}
    others = {name for name, encoding in encodings.items() if encoding != "utf-8"}
    assert others == {"problemC/Csample09.txt", "problemG/Gtrain02-02.txt"}


def test_chapter_two_comes_before_chapter_ten() -> None:
    later = ordered("a/Book_ch10.txt", "a/Book_ch2.txt", "a/Other.txt", pattern=PATTERN)
    refused: list[Refused] = []
    runs = [later, ordered("a/Book_ch1.md", pattern=PATTERN)]
    [(book, record), (other, _)] = gather(runs, refused.append, 100)
    chapters = ["a/Book_ch1.md", "a/Book_ch2.txt", "a/Book_ch10.txt"]
    assert [file["file"] for file in record["files"]] == chapters
    assert (book.source, book.text) == (
        "a/Book_ch1.md … a/Book_ch10.txt (3 files)",
        "words\n\nwords\n\nwords",
    )
    assert (other.id, other.title, other.author, refused) == ("a/Other", "Other", "a", [])


def test_of_two_texts_for_one_place_the_first_stays() -> None:
    refused: list[Refused] = []
    books = gather([ordered("a.txt", "b.txt"), ordered("a.md")], refused.append, 100)
    assert [book.source for book, _ in books] == ["a.md", "b.txt"]
    chapters = ordered("b_ch1.txt", "b_ch01.txt", "b_ch2.txt", pattern=PATTERN)
    [(book, _)] = gather([chapters], refused.append, 8)
    found = [(item.file, item.rule) for item in refused]
    assert found == [("a.txt", "same_name"), ("b_ch1.txt", "same_name"), ("b_ch2.txt", "too_large")]
    assert book.text == "words"


def test_buckets_are_the_same_for_ever() -> None:
    books = ("homer/Homer_Iliad", "homer/Homer_Odyssey", "ä")
    assert [bucket(book, 16) for book in books] == [4, 14, 12]


@settings(deadline=None)
@given(st.text(st.sampled_from("ab \n\u2003"), max_size=200), st.integers(1, 9))
def test_words_are_counted_across_cuts(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt1.corpus.book._SLICE", size)
        assert words_in(text) == len(text.split())
