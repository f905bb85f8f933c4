"""Where books come from: the embedded corpus, folders, and files that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt1.corpus.book import bucket
from gpt1.corpus.embedded import CHAPTERS, FALLBACK, embedded_files, embedded_naming
from gpt1.corpus.folder import text_files
from gpt1.corpus.grouping import folder_naming, group
from gpt1.corpus.text_file import file_digest, read_text
from gpt1.errors import UserError


def test_the_embedded_corpus_is_whole_and_grouped_into_books() -> None:
    files = embedded_files()
    books = {book.id: book for book in group(files, CHAPTERS, embedded_naming)}
    assert sum(path.stat().st_size for path in files.values()) > 9_800_000
    assert len(books) == 48
    assert sum(len(book.names) for book in books.values()) == len(files) == 148
    odyssey = books["homer/Homer_Odyssey"]
    assert (odyssey.title, odyssey.author) == ("Odyssey", "Homer")
    assert odyssey.names == tuple(f"homer/Homer_Odyssey_book{number:02d}.txt" for number in range(1, 26))
    assert odyssey.source == "homer/Homer_Odyssey_book01.txt … homer/Homer_Odyssey_book25.txt (25 files)"
    assert books["russian_lit/Dostoevsky_The_Brothers_Karamazov"].author == "Fyodor Dostoevsky"
    assert books["problemC/Ctrain04-2"].author == "Mark Twain"
    assert books["problemC/Csample03"].author is None
    assert books["problemG/Gsample02"].author == "Edgar Rice Burroughs"


def test_every_embedded_file_can_be_read() -> None:
    encodings = {name: read_text(path, name, FALLBACK)[1] for name, path in embedded_files().items()}
    assert sorted(name for name, encoding in encodings.items() if encoding != "utf-8") == [
        "problemC/Csample09.txt",
        "problemG/Gtrain02-02.txt",
    ]


def test_chapter_two_comes_before_chapter_ten() -> None:
    names = ["a/Book_ch10.txt", "a/Book_ch2.txt", "a/Book_ch1.txt", "a/Other.txt"]
    [book, other] = group(names, r"_ch(\d+)$", folder_naming)
    assert book.names == ("a/Book_ch1.txt", "a/Book_ch2.txt", "a/Book_ch10.txt")
    assert (other.id, other.title, other.author) == ("a/Other", "Other", "a")
    assert folder_naming("Alone") == ("Alone", None)


def test_two_files_for_one_place_are_refused() -> None:
    with pytest.raises(UserError, match=r"a\.TXT and a\.txt would both be"):
        group(["a.TXT", "a.txt"], None, folder_naming)
    with pytest.raises(UserError, match=r"b_ch01\.txt and b_ch1\.txt would both be"):
        group(["b_ch1.txt", "b_ch01.txt"], r"_ch(\d+)$", folder_naming)


def test_text_files_at_any_depth_without_hidden_ones_and_loops(tmp_path: Path) -> None:
    for name in ("b.txt", "x/y/a.TXT", "x/.hidden.txt", ".git/c.txt", "x/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("words")
    (tmp_path / "x" / "loop").symlink_to(tmp_path)
    assert list(text_files(tmp_path)) == ["b.txt", "x/y/a.TXT"]


def test_missing_empty_and_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        text_files(tmp_path / "missing")
    with pytest.raises(UserError, match="the corpus is empty"):
        text_files(tmp_path)
    file = tmp_path / "book.txt"
    file.write_text("words")
    with pytest.raises(UserError, match="is a file"):
        text_files(file)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"book\.txt: the file is empty"),
        (b" \r\n ", r"book\.txt: the file is empty"),
        (b"PK\x03\x04\x00\x00", r"book\.txt: byte 4 is NUL"),
        (b"caf\xe9 au lait", r"book\.txt: byte 3 \(0xe9\) is not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_text(path, "book.txt")


def test_encodings(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbfmark")
    assert read_text(path, "book.txt") == ("mark", "utf-8")
    path.write_bytes(b"it\x92s")
    assert read_text(path, "book.txt", "windows-1252") == ("it’s", "windows-1252")


def test_a_file_changed_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("before")
    digest = file_digest(path, "book.txt")
    assert read_text(path, "book.txt", digest=digest)[0] == "before"
    path.write_text("after")
    with pytest.raises(UserError, match="changed while it was being read"):
        read_text(path, "book.txt", digest=digest)


def test_buckets_are_the_same_for_ever() -> None:
    assert [bucket(book, 16) for book in ("homer/Homer_Iliad", "homer/Homer_Odyssey", "ä")] == [4, 14, 12]
