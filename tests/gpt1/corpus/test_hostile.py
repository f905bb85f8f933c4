"""Broken and hostile files: a record each, all else read, no more unpacked than allowed."""

import io
import lzma
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt1.corpus.document import RefusedError
from gpt1.corpus.readers.container import read_container
from gpt1.corpus.readers.forms import Form
from gpt1.corpus.readers.inflate import Counted, inflated, read_whole
from gpt1.corpus.readers.limits import SLACK, Limits
from tests.gpt1.corpus import forms_of_books as forms
from tests.gpt1.corpus.forms_of_books import SMALL, packed, page, read, rules

LINES = [b"%d words\n" % (line * line) for line in range(4000)]
LONG = {f"book {number}.txt": b"".join(LINES[number:]) for number in range(8)}
BOMB, LIMITS = 40 << 20, SMALL.limits


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


def laughs() -> bytes:
    """An XML file whose entities name one another."""
    levels = [b'<!ENTITY %c "%s">' % (98 + at, b"&%c;" % (97 + at) * 20) for at in range(6)]
    first = b'<!DOCTYPE c [<!ENTITY a "' + b"ha" * 5000 + b'">'
    return first + b"".join(levels) + b"]><c>&g;</c>"


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
GIGABYTE = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
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
CASES: dict[str, tuple[bytes, list[str], Refusals]] = {
    "links.tar": (tar_with(*(info for info, _ in LINKS)), ["a", "z"], NO_LINKS),
    "links.zip": (LINKED_ZIP, ["a"], [("../../up.txt", OUT), ("link.txt", NO_FILE)]),
    "others.zip": (forms.zip_of(NO_TEXTS), ["good"], NO_TEXT),
    "others.tar": (forms.tar_of(NO_TEXTS), ["good"], NO_TEXT),
    "some.zip": (ENCRYPTED, [*forms.BOOKS][1:], [("Jane Austen/Emma.txt", "encrypted")]),
    "none.zip": (b"no zip at all" * 100, [], DAMAGED),
    "member.zip": (BROKEN, [f"book {at}" for at in range(1, 8)], [("book 0.txt", "damaged")]),
    "renamed.epub": (EPUB.replace(b"INF/container", b"INF/containre"), [], DAMAGED),
    "drm.epub": (epub(encryption=LOCKED), [], [(None, "encrypted")]),
    "laughs.epub": (epub(container=laughs()), [], DAMAGED),
    "large.epub": (epub("y" * (5 << 20)), [], [(None, "too_large")]),
    "rows.jsonl": (b"\n".join(ROWS), ["row-000000000", "row-000000008"], NO_ROWS),
    "numbers.parquet": (forms.parquet_of([{"text": 1}]), [], [(None, "no_text_column")]),
    "null.parquet": (NULL, ["row-000000001"], [("row 0", "empty")]),
    "memory.txt.xz": (lzma.compress(b"words", filters=GIGABYTE), [], DAMAGED),
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
        intact = [piece.text.encode() == LONG[piece.inside] for piece in pieces.values()]
        assert len(intact) < 8
        assert all(intact) or len(broken) == len(data)


@contextmanager
def memory_below(mebibytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", forms.CODECS[1:])
def test_a_bomb_is_unpacked_to_its_ceiling_and_no_further(codec: str) -> None:
    bomb = packed(bytes(BOMB), codec)
    stream = inflated(Counted(io.BytesIO(bomb)), codec[1:], LIMITS)
    with pytest.raises(RefusedError) as caught:
        read_whole(stream, 1 << 30)
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
MANY = {f"{number}.txt": b"words \n" * (500 << 10) for number in range(9)}
ENDLESS = packed(HEADER.tobuf(tarfile.PAX_FORMAT) + b"1" * BOMB, ".bz2")
BOUNDED: list[tuple[str, bytes, Limits, str, Refusals, int]] = [
    ("a.zip", forms.zip_of(MEMBERS), LIMITS, "ac", [("bomb.txt", "too_large")], 24),
    ("sum.zip", forms.zip_of(MANY), replace(LIMITS, archive=20 << 20), "01234", BOMBED, 64),
    ("header.tar.bz2", ENDLESS, replace(LIMITS, ratio=100_000), "", DAMAGED, 8),
]


def test_memory_is_bounded() -> None:
    for name, data, limits, books, wanted, mebibytes in BOUNDED:
        with memory_below(mebibytes):
            pieces, refused = read(data, name, replace(SMALL, limits=limits))
        assert list(pieces) == [f"{name}/{book}" for book in books]
        assert rules(refused) == wanted


def test_a_text_repeated_in_parquet_is_held_once() -> None:
    text = "x" * 5_000 + "\n" + "y" * 900_000
    data = forms.parquet_of([{"text": text if number else "first"} for number in range(100)])
    assert len(data) < 4 << 20
    reading = replace(SMALL, limits=replace(LIMITS, line=1_000_000), rows="documents")
    form, before = Form("parquet", None, ".parquet"), pa.total_allocated_bytes()
    found = read_container(io.BytesIO(data), len(data), form, "r.parquet", reading)
    peaks = [pa.total_allocated_bytes() - before for _ in found]
    assert (len(peaks), max(peaks) < 16 << 20) == (100, True)


INTACT = {
    **{f"a.tar{codec}": packed(forms.tar_of(forms.as_files()), codec) for codec in forms.CODECS},
    "a.zip": ZIP, "a.parquet": forms.parquet_of(forms.as_rows()),
    "a.jsonl": forms.jsonl_of(forms.as_rows()), "a.epub": EPUB,
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(INTACT)), st.data())
def test_whatever_is_damaged_ends_in_books_and_records(name: str, data: st.DataObject) -> None:
    broken = bytearray(INTACT[name][: data.draw(st.integers(1, len(INTACT[name])))])
    for _ in range(data.draw(st.integers(0, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    rules(read(bytes(broken), name)[1])
