"""Which files are one book, in which order, and which of two texts for one place stays."""

import heapq
import random
from pathlib import Path
from typing import IO

import pytest

from gpt1.corpus.assemble import (
    assemble,
    assign_to_book,
    part_name,
    partition_of,
    read_run,
    sort_key,
    sort_key_of,
    write_runs,
)
from gpt1.corpus.demo_corpus import CHAPTERS, FALLBACK, embedded_files
from gpt1.corpus.document import Document, SkippedFile, TextOrigin
from gpt1.corpus.readers.text import decode
from tests.conftest import write


def ordered(*names: str) -> list[Document]:
    texts = [
        Document("", "", None, name, "words", origins=(TextOrigin(name, None, "", "", 5, ""),))
        for name in names
    ]
    return sorted((assign_to_book(text, r"_ch(\d+)$") for text in texts), key=sort_key)


def test_the_embedded_corpus_is_complete_and_grouped_into_books() -> None:
    files = embedded_files()
    keys = {name: sort_key_of(name, CHAPTERS) for name in files}
    assert sum(path.stat().st_size for path in files.values()) > 9_800_000
    assert (len({key.book for key in keys.values()}), len(files)) == (48, 148)
    assert sum(key.book == "homer/Homer_Odyssey" for key in keys.values()) == 25
    decoded = {name: decode(path.read_bytes(), FALLBACK) for name, path in files.items()}
    others = [name for name, found in decoded.items() if found.encoding != "utf-8"]
    assert sorted(others) == ["problemC/Csample09.txt", "problemG/Gtrain02-02.txt"]


def test_a_name_of_which_the_pattern_leaves_nothing_is_its_folders() -> None:
    for name in ("a/ch1.txt", "a/ch1..txt"):
        assert sort_key_of(name, r"ch(\d+)") == ("a", "10000011", name)
    assert sort_key_of("ch1.txt", r"ch(\d+)") == ("book", "10000011", "ch1.txt")
    origin = TextOrigin("Jane_Doe/My_Life.tar.gz", "ch1.txt", "", "", 5, "")
    text = Document("", "", None, f"{origin.file}/ch1.txt", "words", origins=(origin,))
    book = assign_to_book(text, r"ch(\d+)")
    assert (book.id, book.title, book.author) == (origin.file, "My Life", "Jane Doe")


def test_chapter_two_comes_before_chapter_ten() -> None:
    refused: list[SkippedFile] = []
    later = ordered("a/Book_ch10.txt", "a/Book_ch2.txt", "a/Other.txt")
    runs = [later, ordered("a/Book_ch1.md")]
    [book, other] = assemble(runs, refused.append, 100)
    chapters = ["a/Book_ch1.md", "a/Book_ch2.txt", "a/Book_ch10.txt"]
    assert [origin.file for origin in book.origins] == chapters
    assert book.source == "a/Book_ch1.md … a/Book_ch10.txt (3 files)"
    assert book.text == "words\n\nwords\n\nwords"
    assert (other.id, other.title, other.author, refused) == ("a/Other", "Other", "a", [])


def test_of_two_texts_for_one_place_the_first_stays() -> None:
    refused: list[SkippedFile] = []
    books = assemble([ordered("a.txt", "b.txt"), ordered("a.md")], refused.append, 100)
    assert [book.source for book in books] == ["a.md", "b.txt"]
    chapters = ordered("b_ch1.txt", "b_ch01.txt", "b_ch2.txt")
    [book] = assemble([chapters], refused.append, 8)
    found = [(item.file, item.rule) for item in refused]
    assert found == [("a.txt", "same_name"), ("b_ch1.txt", "same_name"), ("b_ch2.txt", "too_large")]
    assert book.text == "words"


def test_texts_of_an_archive_come_back_by_partition_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several runs of each partition, with all that is known of them."""
    monkeypatch.setattr("gpt1.corpus.assemble._HELD", 3000)
    texts = ordered(*(f"author {n % 7}/book_{n}.txt" for n in range(20)))

    def create(name: str) -> IO[bytes]:
        return (write(tmp_path, {name: b""}) / name).open("wb")

    write_runs(random.Random(1).sample(texts, len(texts)), 2, create)
    for partition in range(2):
        runs = [read_run(path) for path in (tmp_path / "runs" / part_name(partition)).iterdir()]
        assert len(runs) > 2
        found = list(heapq.merge(*runs, key=sort_key))
        assert found == [text for text in texts if partition_of(text.id, 2) == partition]
