"""Which files are one book: the embedded corpus, chapters, and where two texts want one place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpt1.corpus.book import bucket, words_in
from gpt1.corpus.embedded import CHAPTERS, FALLBACK, embedded_files, embedded_naming
from gpt1.corpus.gather import gather
from gpt1.corpus.grouping import placed, shelf_of
from gpt1.corpus.sources.piece import Piece, Refused, naming
from gpt1.corpus.spool import Ordered, key
from gpt1.corpus.text_file import read_text


def ordered(*names: str, pattern: str | None = None, text: str = "words") -> list[Ordered]:
    pieces = [placed(Piece(name, name, name, None, text, "utf-8", "", len(text), ""), pattern) for name in names]
    return sorted((key(piece, order), piece) for piece, order in pieces)


def test_the_embedded_corpus_is_whole_and_grouped_into_books() -> None:
    files = embedded_files()
    books: dict[str, list[str]] = {}
    for name in sorted(files, key=lambda name: (shelf_of(name, CHAPTERS).book, shelf_of(name, CHAPTERS).order)):
        books.setdefault(shelf_of(name, CHAPTERS).book, []).append(name)
    assert sum(path.stat().st_size for path in files.values()) > 9_800_000
    assert (len(books), len(files)) == (48, 148)
    assert books["homer/Homer_Odyssey"] == [f"homer/Homer_Odyssey_book{number:02d}.txt" for number in range(1, 26)]
    assert embedded_naming("homer/Homer_Odyssey") == ("Odyssey", "Homer")
    assert embedded_naming("russian_lit/Dostoevsky_The_Brothers_Karamazov")[1] == "Fyodor Dostoevsky"
    assert embedded_naming("problemC/Ctrain04-2")[1] == "Mark Twain"
    assert embedded_naming("problemC/Csample03")[1] is None
    assert embedded_naming("problemG/Gsample02")[1] == "Edgar Rice Burroughs"


def test_every_embedded_file_can_be_read() -> None:
    encodings = {name: read_text(path, name, FALLBACK)[1] for name, path in embedded_files().items()}
    assert sorted(name for name, encoding in encodings.items() if encoding != "utf-8") == [
        "problemC/Csample09.txt",
        "problemG/Gtrain02-02.txt",
    ]


def test_chapter_two_comes_before_chapter_ten() -> None:
    chapters = r"_ch(\d+)$"
    later = ordered("a/Book_ch10.txt", "a/Book_ch2.txt", "a/Other.txt", pattern=chapters)
    runs = [later, ordered("a/Book_ch1.md", pattern=chapters)]
    refused: list[Refused] = []
    [(book, record), (other, _)] = gather(runs, refused.append, 100)
    assert [file["file"] for file in record["files"]] == ["a/Book_ch1.md", "a/Book_ch2.txt", "a/Book_ch10.txt"]
    assert book.source == "a/Book_ch1.md … a/Book_ch10.txt (3 files)"
    assert book.text == "words\n\nwords\n\nwords"
    assert (other.id, other.title, other.author, refused) == ("a/Other", "Other", "a", [])
    assert naming("Alone") == ("Alone", None)


def test_of_two_texts_for_one_place_the_first_stays() -> None:
    refused: list[Refused] = []
    books = [book for book, _ in gather([ordered("a.txt", "b.txt"), ordered("a.md")], refused.append, 100)]
    assert [book.source for book in books] == ["a.md", "b.txt"]
    assert [(item.file, item.rule) for item in refused] == [("a.txt", "same_name")]
    refused.clear()
    [(book, _)] = gather([ordered("b_ch1.txt", "b_ch01.txt", "b_ch2.txt", pattern=r"_ch(\d+)$")], refused.append, 8)
    assert [(item.file, item.rule) for item in refused] == [("b_ch1.txt", "same_name"), ("b_ch2.txt", "too_large")]
    assert book.text == "words"


@given(st.text(st.sampled_from("ab \n\u2003"), max_size=200), st.integers(1, 9))
def test_words_are_counted_across_cuts(text: str, size: int) -> None:
    import gpt1.corpus.book as module

    before, module._SLICE = module._SLICE, size
    try:
        assert words_in(text) == len(text.split())
    finally:
        module._SLICE = before


def test_buckets_are_the_same_for_ever() -> None:
    assert [bucket(book, 16) for book in ("homer/Homer_Iliad", "homer/Homer_Odyssey", "ä")] == [4, 14, 12]
