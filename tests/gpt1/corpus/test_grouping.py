"""Which files are one book, in which order, and which of two texts for one place stays."""

from gpt1.corpus.assemble import gather
from gpt1.corpus.book import words_in
from gpt1.corpus.demo_corpus import CHAPTERS, FALLBACK, embedded_files
from gpt1.corpus.document import Piece, Refused
from gpt1.corpus.grouping import placed, shelf_of
from gpt1.corpus.partition import Ordered, key
from gpt1.corpus.text_file import read_text


def ordered(*names: str) -> list[Ordered]:
    pieces = [Piece(name, name, name, None, "words", "utf-8", "", 5, "") for name in names]
    return sorted((key(*at), at[0]) for at in (placed(piece, r"_ch(\d+)$") for piece in pieces))


def test_the_embedded_corpus_is_complete_and_grouped_into_books() -> None:
    files = embedded_files()
    shelves = {name: shelf_of(name, CHAPTERS) for name in files}
    assert sum(path.stat().st_size for path in files.values()) > 9_800_000
    assert (len({shelf.book for shelf in shelves.values()}), len(files)) == (48, 148)
    assert sum(shelf.book == "homer/Homer_Odyssey" for shelf in shelves.values()) == 25
    others = [name for name, path in files.items() if read_text(path, name, FALLBACK)[1] != "utf-8"]
    assert sorted(others) == ["problemC/Csample09.txt", "problemG/Gtrain02-02.txt"]


def test_chapter_two_comes_before_chapter_ten() -> None:
    later, refused = ordered("a/Book_ch10.txt", "a/Book_ch2.txt", "a/Other.txt"), list[Refused]()
    runs = [later, ordered("a/Book_ch1.md")]
    [(book, record), (other, _)] = gather(runs, refused.append, 100)
    chapters = ["a/Book_ch1.md", "a/Book_ch2.txt", "a/Book_ch10.txt"]
    assert [file["file"] for file in record["files"]] == chapters
    assert book.source == "a/Book_ch1.md … a/Book_ch10.txt (3 files)"
    assert book.text == "words\n\nwords\n\nwords"
    assert (other.id, other.title, other.author, refused) == ("a/Other", "Other", "a", [])


def test_of_two_texts_for_one_place_the_first_stays() -> None:
    refused: list[Refused] = []
    books = gather([ordered("a.txt", "b.txt"), ordered("a.md")], refused.append, 100)
    assert [book.source for book, _ in books] == ["a.md", "b.txt"]
    chapters = ordered("b_ch1.txt", "b_ch01.txt", "b_ch2.txt")
    [(book, _)] = gather([chapters], refused.append, 8)
    found = [(item.file, item.rule) for item in refused]
    assert found == [("a.txt", "same_name"), ("b_ch1.txt", "same_name"), ("b_ch2.txt", "too_large")]
    assert book.text == "words"


def test_words_are_counted_in_slices_that_cut_words_and_gaps() -> None:
    assert words_in("a bc \u2003\n" * 1_000_000) == 2_000_000
