"""Broken and hostile files: a record each, all else read, no more unpacked than allowed."""

import base64
import io
import json
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt1.corpus import isolation
from gpt1.corpus.discover import Format, format_of, list_sources
from gpt1.corpus.document import (
    Document,
    Place,
    ReadingConfig,
    SkippedFile,
    SourceFile,
    UnreadableFileError,
    guarded,
)
from gpt1.corpus.readers import read_stream, tables
from gpt1.corpus.readers.archives import SLACK, CountingReader, unpack
from gpt1.errors import UserError
from tests.conftest import write
from tests.gpt1.corpus import forms_of_books as forms
from tests.gpt1.corpus.forms_of_books import SMALL, packed, page, read, rules, with_limits

LINES = [b"%d words\n" % (line * line) for line in range(4000)]
LONG = {f"book {number}.txt": b"".join(LINES[number:]) for number in range(8)}
BOMB = 40 << 20


class Lost(io.BytesIO):
    """Bytes of a server that ends after some reads."""

    left = 0

    def read(self, size: int | None = -1) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("lost")
        return super().read(size)


@contextmanager
def memory_below(mebibytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes << 20
    finally:
        tracemalloc.stop()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 5 if kind == tarfile.REGTYPE else 0
    return info


def tar_with(*infos: tarfile.TarInfo) -> bytes:
    """A tar of a good book, these members, and another good book."""
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w") as archive:
        for info in (member("a.txt"), *infos, member("z.txt")):
            archive.addfile(info, io.BytesIO(b"words"))
    return out.getvalue()


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def epub(text: str = "Words.", **extra: bytes) -> bytes:
    others = {f"META-INF/{name}.xml": data for name, data in extra.items()}
    return forms.epub_of("T", "A", {"a.xhtml": page(text)}, others)


EPUB, ZIP, LONG_ZIP = epub(), forms.zip_of(forms.as_files()), forms.zip_of(LONG)
LOCKED = b'<e><CipherReference URI="OEBPS/text/a.xhtml"/></e>'
NO_TEXTS = {
    "good.txt": b"words", "notes.csv": b"a,b", ".hidden.txt": b"x", "inner.zip": ZIP,
    "cut.txt.gz": packed(b"words" * 99, ".gz")[:-4],
}  # fmt: skip
NO_TEXT = [("notes.csv", "unknown_form"), ("inner.zip", "nested"), ("cut.txt.gz", "damaged")]
ROWS = {
    b'{"text": "one"}': None, b"{broken": "bad_row", b"[1]": "no_text_column",
    b'{"words": "x"}': "no_text_column", b'{"text": 7}': "bad_row", b"": None,
    b'{"text": "\\ud800"}': "undecodable", b"[" * 99_999: "bad_row", b'{"text": "last"}': None,
}  # fmt: skip
NO_ROWS = [(f"row {number}", rule) for number, rule in enumerate(ROWS.values()) if rule]
OUT, NO_FILE = "unsafe_path", "not_a_file"
LINKS: list[tuple[tarfile.TarInfo, str]] = [
    (member("../up.txt"), OUT), (member("/etc/absolute.txt"), OUT),
    (member("x/../../up.txt"), OUT), (member("C:\\..\\y.txt"), OUT),
    (member("link.txt", tarfile.SYMTYPE, "/etc/passwd"), NO_FILE),
    (member("hard.txt", tarfile.LNKTYPE, "a.txt"), NO_FILE),
    (member("null.txt", tarfile.CHRTYPE), NO_FILE), (member("fifo.txt", tarfile.FIFOTYPE), NO_FILE),
    (member("odd\x1bname.txt"), "bad_name"),
]
Refusals = list[tuple[str | None, str]]
NO_LINKS: Refusals = [(info.name.replace("\x1b", "\\x1b"), rule) for info, rule in LINKS]
DAMAGED, BOMBED = [(None, "damaged")], [(None, "bomb")]
ENCRYPTED = changed(ZIP, ZIP.find(b"PK\x01\x02") + 8, b"\x01")
BROKEN, NULL = changed(LONG_ZIP, 200, bytes(20)), forms.parquet_of([{"text": None}, {"text": "x"}])
LINKED = zipfile.ZipInfo("link.txt")
LINKED.external_attr = 0o120777 << 16
LINKED_ZIP = forms.zip_of({"../../up.txt": b"words", "a.txt": b"words", LINKED: b"/etc/passwd"})
KEYS = {"k" * 3_000_000: 1, "\ud800": 2}
ODD_ROWS = {
    b'{"\\ud800": 1}': "no_text_column", json.dumps(KEYS).encode(): "no_text_column",
    b'{"text": ' + b"[" * 99_999: "bad_row", b'{"text": %s}' % (b"9" * 5_000): "bad_row",
    b'{"text": "\xff"}': "invalid_utf8", b'{"text": "in", "title": %s}' % (b"9" * 4_000): None,
    json.dumps({"text": "long", "id": "i" * 9_000, "title": "\ud800\n"}).encode(): None,
}  # fmt: skip
NO_ODD_ROWS = [(f"row {number}", rule) for number, rule in enumerate(ODD_ROWS.values()) if rule]
PAX, GNU = tarfile.PAX_FORMAT, tarfile.GNU_FORMAT


def tar_member(name: str = "b.txt", text: bytes = b"words", form: int = PAX, **pax: str) -> bytes:
    """A member with its header, of any length that pax says."""
    info = tarfile.TarInfo(name)
    info.size, info.pax_headers = len(text), pax
    return info.tobuf(form) + text + bytes(-len(text) % 512)


def sized(name: str, field: bytes) -> bytes:
    """A header with such a size."""
    block = bytearray(member(name).tobuf(GNU))
    block[124:136] = field
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
    return bytes(block)


TAR = tar_member("a.txt")
LAST = tar_member("z.txt") + bytes(1024)
TARS: dict[str, tuple[bytes, list[str], Refusals]] = {
    "23 nines": (tar_member(size="9" * 23), ["a"], DAMAGED),
    "half of all": (sized("b.txt", b"\x80" + b"\xff" * 11), ["a"], DAMAGED),
    "beyond": (sized("b.txt", b"000077777777"), ["a"], [("b.txt", "too_large"), *DAMAGED]),
    "no number": (sized("b.txt", b"12x456789012"), ["a"], DAMAGED),
    "sparse": (
        tar_member(**{"GNU.sparse.size": "abc"}) + LAST, ["a", "z"], [("b.txt", "not_a_file")]
    ),
    "pax without lengths": (
        tar_member("x", b"path=b.txt\n").replace(b"0", b"x", 1)[:156], ["a"], DAMAGED
    ),
    "long name": (tar_member("d/" * 200 + "b.txt") + LAST, ["a", "d/" * 200 + "b", "z"], []),
    "long name of GNU": (
        tar_member("d/" * 200 + "b.txt", form=GNU) + LAST, ["a", "d/" * 200 + "b", "z"], []
    ),
    "old": (tar_member("é" * 20 + ".txt", form=GNU) + LAST, ["a", "é" * 20, "z"], []),
    "backslashes": (tar_member("x\\b.txt") + LAST, ["a", "x/b", "z"], []),
    "no end": (tar_member(), ["a", "b"], []),
}  # fmt: skip


@pytest.mark.parametrize("name", TARS)
def test_a_header_of_tar_costs_what_it_says_and_no_more(name: str) -> None:
    data, books, wanted = TARS[name]
    documents, skipped = read(TAR + data, "b.tar")
    assert [*documents] == [f"b.tar/{book}" for book in books]
    assert rules(skipped) == wanted


def named(raw: bytes) -> bytes:
    """A zip file whose one member has a name of these bytes."""
    return forms.zip_of({"n" * len(raw): b"words"}).replace(b"n" * len(raw), raw)


ZIP_NAMES = {
    b"An Author\\A Book.txt": "An Author/A Book", "Zoë/Café.txt".encode(): "Zoë/Café",
    "Zoë/Café.txt".encode("cp437"): "Zoë/Café", b"A/B.TXT": "A/B", b"./A//B.txt": "A/B",
}


@pytest.mark.parametrize("raw", ZIP_NAMES)
def test_names_of_zip_files(raw: bytes) -> None:
    assert [*read(named(raw), "b.zip")[0]] == [f"b.zip/{ZIP_NAMES[raw]}"]
    for outside in (b"..\\b.txt", b"C:\\b.txt", b"\\b.txt"):
        assert [rule for _, rule in rules(read(named(outside), "b.zip")[1])] == [OUT]
    packed_so = changed(ZIP, ZIP.find(b"PK\x01\x02") + 10, b"\x09")
    assert [rule for _, rule in rules(read(packed_so, "b.zip")[1])] == ["unsupported"]


TEXT_TYPES = {
    "string": pa.string(), "large_string": pa.large_string(), "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()), "binary": pa.binary(),
    "dictionary of large": pa.dictionary(pa.int8(), pa.large_string()), "json": pa.json_(),
    "large_binary": pa.large_binary(), "binary_view": pa.binary_view(),
}


def parquet_with(names: list[str], *columns: pa.Array) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table([*columns], names=names), out)
    return out.getvalue()


@pytest.mark.parametrize("name", TEXT_TYPES)
def test_every_type_of_arrow_that_holds_text_is_read(name: str) -> None:
    binary = "binary" in name
    words = ["one", "two", "one"]
    values = [word.encode() for word in words] if binary else words
    column = pa.array(values, type=TEXT_TYPES[name])
    documents, skipped = read(parquet_with(["text", "title"], column, column), "b.parquet")
    assert [(one.text, one.title) for one in documents.values()] == [(word, word) for word in words]
    assert skipped == []


WORDS = pa.array(["one", "two"])
NO_COLUMN = {
    "twice": (["text", "text"], [WORDS, WORDS], "2 columns are called 'text'"),
    "lists": (["text"], [pa.array([["one"], ["two"]])], "holds list<"),
    "numbers": (["text"], [pa.array([1, 2])], "holds int64"),
    "other names": (["x" * 9_000, "b"], [WORDS, WORDS], "its columns are xxx"),
}


@pytest.mark.parametrize("name", NO_COLUMN)
def test_a_file_without_one_column_of_text(name: str) -> None:
    names, columns, found = NO_COLUMN[name]
    documents, [skipped] = read(parquet_with(names, *columns), "b.parquet")
    assert (documents, rules([skipped])) == ({}, [(None, "no_text_column")])
    assert found in skipped.found


def test_columns_that_say_nothing_of_a_text_are_not_read() -> None:
    about = [pa.array([2**30, 1], pa.date32()), pa.array([["a"], []]), pa.array([7, 8]), WORDS]
    documents, skipped = read(parquet_with(["id", "title", "author", "text"], *about), "b.parquet")
    found = [(one.title, one.author, one.text) for one in documents.values()]
    assert found == [("row-000000000", "7", "one"), ("row-000000001", "8", "two")]
    assert skipped == []
    config = with_limits(text_column="title")
    [document] = read(b'{"title": "Words."}', "b.jsonl", config)[0].values()
    assert (document.title, document.text) == ("row-000000000", "Words.")


def test_what_columns_expand_to_is_bounded() -> None:
    title = pa.array(["t" * 400_000] * 2_000).dictionary_encode()
    data = parquet_with(["text", "title"], pa.array([str(n) for n in range(2_000)]), title)
    assert len(data) < 100_000
    with memory_below(16):
        documents, skipped = read(data, "b.parquet")
    assert (len(documents), skipped) == (2_000, [])
    assert {len(document.title) for document in documents.values()} == {1_000}
    text = pa.array(["word\n" * 100_000] * 500).dictionary_encode()
    documents, [skipped] = read(parquet_with(["text"], text), "b.parquet")
    assert (len(documents) < 40, skipped.rule) == (True, "bomb")


def test_an_index_beyond_its_dictionary_is_damage() -> None:
    for index in (2, -1):
        indices = pa.array([0, index], pa.int32())
        column = pa.DictionaryArray.from_arrays(indices, WORDS, safe=False)
        with pytest.raises(UnreadableFileError, match="beyond its dictionary"):
            tables.values_of(column)


KILLER = """\
UEFSMRUEFSgVLEwVBBUAEgAAFEwFAAAAYSBiIGMHAAAAZCBlIGYgZxUAFRoVHiwVUBUQFQYVBhw2ACgHZCBlIGYgZxgFYSBi
IGMREQAAAA0wAgAAAFABAQuqqqqqqhUEFRQVGEwVBBUAEgAACiQBAAAAdAEAAAB1FQAVGhUeLBVQFRAVBhUGHDYAKAF1GAF0
EREAAAANMAIAAABQAQELqqqqqqoVBBk8NQAYBnNjaGVtYRUEABUMJQIYBHRleHQlAEwcAAAAFQwlXBgFdGl0bGUlAEwcAAAA
FlAZHBksJgAcFQwZNQAGEBkYBHRleHQVAhZQFqwBFrQBJlAmCBw2ACgHZCBlIGYgZxgFYSBiIGMREQAZLBUEFQAVAgAVABUQ
FQIAPBbgAxkGGSYAUAAAACYAHBUMGTUABhAZGAV0aXRsZRUCFlAWhAEWjAEm8AEmvAEcNgAoAXUYAXQREQAZLBUEFQAVAgAV
ABUQFQIAPBZQGQYZJgBQAAAAFrACFlAmCBbAAgAZHBgMQVJST1c6c2NoZW1hGOABLy8vLy82QUFBQUFRQUFBQUFBQUtBQXdB
QmdBRkFBZ0FDZ0FBQUFBQkJBQU1BQUFBQ0FBSUFBQUFCQUFJQUFBQUJBQUFBQUlBQUFCQUFBQUFCQUFBQU5qLy8vOEFBQUVG
RUFBQUFCZ0FBQUFFQUFBQUFBQUFBQVVBQUFCMGFYUnNaUUFBQU1qLy8vOFFBQlFBQ0FBR0FBY0FEQUFBQUJBQUVBQUFBQUFB
QVFVUUFBQUFIQUFBQUFRQUFBQUFBQUFBQkFBQUFIUmxlSFFBQUFBQUJBQUVBQVFBQUFBQUFBQUEAGCBwYXJxdWV0LWNwcC1h
cnJvdyB2ZXJzaW9uIDI1LjAuMRksHAAAHAAAAAACAABQQVIx"""


SLOW_AND_LARGE = """\
import time
from gpt1.corpus.readers import text

decode = text.decode

def decoded(data, fallback):
    if data == b"slow":
        time.sleep(1000)
    return bytes(4 << 30) if data == b"much" else decode(data, fallback)

text.decode = decoded
"""


def test_a_file_that_ends_its_reader_is_skipped_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    files = {"a.txt": b"one", "b.parquet": base64.b64decode(KILLER), "c.txt": b"two", "d.txt": b"3"}
    write(tmp_path, {**files, "hangs.txt": b"slow", "large.txt": b"much", "z.txt": b"last"})

    monkeypatch.syspath_prepend(tmp_path.parent / "start")  # of the child, by its PYTHONPATH
    write(tmp_path.parent / "start", {"sitecustomize.py": SLOW_AND_LARGE})
    monkeypatch.setattr(isolation._Child, "waiting", [])
    listed = list_sources([str(tmp_path)]).files
    found = list(isolation.read_isolated(listed, SMALL, patience=3.0))
    texts = [item.text for item in found if isinstance(item, Document)]
    skipped = [item for item in found if isinstance(item, SkippedFile)]
    assert texts == ["one", "two", "3", "last"]
    assert capfd.readouterr().err == ""
    assert [(item.file, item.rule) for item in skipped] == [
        ("b.parquet", "reader_died"), ("hangs.txt", "reader_died"),
        ("large.txt", "unreadable_content"),
    ]  # fmt: skip
    for item, words in zip(skipped, ("SIG", "no sign of life", "MemoryError"), strict=True):
        assert words in item.found
    with pytest.raises(UserError, match=r"gone\.txt: cannot be read"):
        list(isolation.read_isolated([SourceFile("gone.txt", str(tmp_path / "gone.txt"))], SMALL))


CASES: dict[str, tuple[bytes, list[str], Refusals]] = {
    "links.tar": (tar_with(*(info for info, _ in LINKS)), ["a", "z"], NO_LINKS),
    "links.zip": (LINKED_ZIP, ["a"], [("../../up.txt", OUT), ("link.txt", NO_FILE)]),
    "others.zip": (forms.zip_of(NO_TEXTS), ["good"], NO_TEXT),
    "others.tar": (forms.tar_of(NO_TEXTS), ["good"], NO_TEXT),
    "some.zip": (ENCRYPTED, [*forms.BOOKS][1:], [("Jane Austen/Emma.txt", "encrypted")]),
    "none.zip": (b"no zip at all" * 100, [], DAMAGED),
    "member.zip": (BROKEN, [f"book {at}" for at in range(1, 8)], [("book 0.txt", "damaged")]),
    "drm.epub": (epub(encryption=LOCKED), [], [(None, "encrypted")]),
    "large.epub": (epub("y" * (5 << 20)), [], [(None, "too_large")]),
    "odd.jsonl": (b"\n".join(ODD_ROWS), ["row-000000005", "row-000000006"], NO_ODD_ROWS),
    "rows.jsonl": (b"\n".join(ROWS), ["row-000000000", "row-000000008"], NO_ROWS),
    "numbers.parquet": (forms.parquet_of([{"text": 1}]), [], [(None, "no_text_column")]),
    "null.parquet": (NULL, ["row-000000001"], [("row 0", "empty")]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_fault_costs_itself_alone(name: str) -> None:
    data, books, wanted = CASES[name]
    pieces, refused = read(data, name)
    assert list(pieces) == [f"{name}/{book}" for book in books]
    assert rules(refused) == wanted


@pytest.mark.parametrize("codec", forms.CODECS)
def test_a_tar_cut_or_overwritten_is_damaged_and_keeps_complete_members(codec: str) -> None:
    data = packed(forms.tar_of(LONG), codec)
    half = len(data) // 2
    cuts = (100, 512, 600, half, half // 512 * 512, len(data) * 3 // 4)
    for broken in (data[:half] + b"\xaa" * (len(data) - half), *(data[:cut] for cut in cuts)):
        pieces, refused = read(broken, f"a.tar{codec}")
        assert "damaged" in {rule for _, rule in rules(refused)}
        intact = [piece.text.encode() == LONG[piece.origins[0].member] for piece in pieces.values()]
        assert len(intact) < 8
        assert all(intact) or len(broken) == len(data)


@pytest.mark.parametrize("codec", forms.CODECS[1:])
def test_a_bomb_is_unpacked_to_its_ceiling_and_no_further(codec: str) -> None:
    bomb = packed(bytes(BOMB), codec)
    stream = unpack(CountingReader(io.BytesIO(bomb)), codec[1:], SMALL)
    with pytest.raises(UnreadableFileError) as caught:
        stream.read_all(1 << 30)
    assert caught.value.rule == "bomb"
    assert stream.count <= max(SLACK, 100 * len(bomb)) + (1 << 16)
    members = {"good.txt": b"words", "b.txt": bytes(BOMB), "lost.txt": b"w"}
    data = packed(forms.tar_of(members), codec)
    with memory_below(12):
        pieces, refused = read(data, f"b.tar{codec}")
    assert list(pieces) == [f"b.tar{codec}/good"]
    assert rules(refused) == [("b.txt", "too_large"), *BOMBED]


HEADER = member("x", tarfile.XHDTYPE)
HEADER.size = 300 << 20
MEMBERS = {"a.txt": b"1", "bomb.txt": bytes(2 * BOMB), "c.txt": b"2"}
FOREIGN = {"film.mp4": bytes(2 * BOMB), "a.txt": b"1", "inner.zip": bytes(BOMB)}
MANY = {f"{number}.txt": b"words \n" * (500 << 10) for number in range(9)}
ENDLESS = packed(HEADER.tobuf(tarfile.PAX_FORMAT) + b"1" * BOMB, ".bz2")
BOUNDED: list[tuple[str, bytes, ReadingConfig, str, Refusals, int]] = [
    ("a.zip", forms.zip_of(MEMBERS), SMALL, "ac", [("bomb.txt", "too_large")], 24),
    ("film.zip", forms.zip_of(FOREIGN), SMALL, "a",
     [("film.mp4", "unknown_form"), ("inner.zip", "nested")], 24),
    ("sum.zip", forms.zip_of(MANY), with_limits(max_archive=20 << 20), "0123", BOMBED, 64),
    ("header.tar.bz2", ENDLESS, with_limits(max_ratio=100_000), "", DAMAGED, 8),
]


def test_memory_is_bounded() -> None:
    for name, data, config, books, wanted, mebibytes in BOUNDED:
        with memory_below(mebibytes):
            pieces, refused = read(data, name, config)
        assert list(pieces) == [f"{name}/{book}" for book in books]
        assert rules(refused) == wanted


def test_a_text_repeated_in_parquet_is_held_once() -> None:
    body = "x" * 5_000 + "\n" + "y" * 900_000
    data = forms.parquet_of([{"text": body if number else "first"} for number in range(100)])
    assert len(data) < 4 << 20
    config = with_limits(max_line=1_000_000, max_ratio=100_000, max_archive=1 << 30)
    before = pa.total_allocated_bytes()
    raw = CountingReader(io.BytesIO(data), len(data))
    found = read_stream(raw, Place("r.parquet"), Format("parquet", None, ""), config)
    peaks = [pa.total_allocated_bytes() - before for _ in found]
    assert (len(peaks), max(peaks) < 16 << 20) == (100, True)


INTACT = {
    **{f"a.tar{codec}": packed(forms.tar_of(forms.as_files()), codec) for codec in forms.CODECS},
    "a.zip": ZIP, "a.parquet": forms.parquet_of(forms.as_rows()),
    "a.jsonl": forms.jsonl_of(forms.as_rows()), "a.epub": EPUB,
}


@pytest.mark.parametrize("name", INTACT)
def test_a_connection_that_is_lost_is_no_fault_of_the_file(name: str) -> None:
    config, place, form = ReadingConfig(), Place(name), format_of(name)
    assert form is not None
    for reads in range(4 if name in ("a.zip", "a.parquet") else 1):
        (stream := Lost(INTACT[name])).left = reads
        with pytest.raises(UserError, match="lost"):
            list(guarded(read_stream(CountingReader(stream), place, form, config), place))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(INTACT)), st.data())
def test_whatever_is_damaged_ends_in_books_and_records(name: str, data: st.DataObject) -> None:
    broken = bytearray(INTACT[name][: data.draw(st.integers(1, len(INTACT[name])))])
    for _ in range(data.draw(st.integers(0, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    rules(read(bytes(broken), name)[1])
