"""Broken and hostile files: a record each, all else read, no more unpacked than allowed."""

from __future__ import annotations

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

from gpt1.corpus.sources.container import read_container
from gpt1.corpus.sources.forms import Form
from gpt1.corpus.sources.inflate import Counted, inflated, read_whole
from gpt1.corpus.sources.limits import SLACK
from gpt1.corpus.sources.piece import RefusedError
from tests.gpt1.corpus import forms_of_books as forms
from tests.gpt1.corpus.forms_of_books import SMALL, packed, page, read, rules

LONG = {
    f"book {number}.txt": b"".join(b"%d of %d.\n" % (line * line, number) for line in range(4000))
    for number in range(8)
}
BOMB = 40 << 20


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def tar_with(*infos: tarfile.TarInfo) -> bytes:
    """A tar of a good book, these members, and another good book."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info in (member("a.txt"), *infos, member("z.txt")):
            info.size = 5 if info.isreg() else 0
            archive.addfile(info, io.BytesIO(b"words") if info.isreg() else None)
    return out.getvalue()


def zip_with_a_link() -> bytes:
    out = io.BytesIO(forms.zip_of({"../../up.txt": b"words", "a.txt": b"words"}))
    with zipfile.ZipFile(out, "a") as archive:
        linked = zipfile.ZipInfo("link.txt")
        linked.external_attr = 0o120777 << 16
        archive.writestr(linked, "/etc/passwd")
    return out.getvalue()


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def laughs() -> bytes:
    """An XML file whose entities name one another."""
    levels = [b'<!ENTITY %c "%s">' % (98 + at, b"&%c;" % (97 + at) * 20) for at in range(6)]
    first = b'<!DOCTYPE c [<!ENTITY a "' + b"ha" * 5000 + b'">'
    return first + b"".join(levels) + b"]><c>&g;</c>"


def epub(text: str = "Words.", **extra: bytes) -> bytes:
    return forms.epub_of(
        "T", "A", {"a.xhtml": page(text)},
        {f"META-INF/{name}.xml": data for name, data in extra.items()},
    )


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
    *(
        (member(name), OUT)
        for name in ("../up.txt", "/etc/absolute.txt", "x/../../up.txt", "C:\\..\\y.txt")
    ),
    (member("link.txt", tarfile.SYMTYPE, "/etc/passwd"), NO_FILE),
    (member("hard.txt", tarfile.LNKTYPE, "a.txt"), NO_FILE),
    (member("null.txt", tarfile.CHRTYPE), NO_FILE),
    (member("fifo.txt", tarfile.FIFOTYPE), NO_FILE),
    (member("odd\x1bname.txt"), "bad_name"),
]
Refusals = list[tuple[str | None, str]]
DAMAGED: Refusals = [(None, "damaged")]
NO_COLUMN: Refusals = [(None, "no_text_column")]
ENCRYPTED = changed(ZIP, ZIP.find(b"PK\x01\x02") + 8, b"\x01")
NULL = forms.parquet_of([{"text": None}, {"text": "x"}])
CASES: dict[str, tuple[bytes, list[str], Refusals]] = {
    "links.tar": (
        tar_with(*(info for info, _ in LINKS)), ["a", "z"],
        [(info.name.replace("\x1b", "\\x1b"), rule) for info, rule in LINKS],
    ),
    "links.zip": (zip_with_a_link(), ["a"], [("../../up.txt", OUT), ("link.txt", NO_FILE)]),
    "others.zip": (forms.zip_of(NO_TEXTS), ["good"], NO_TEXT),
    "others.tar": (forms.tar_of(NO_TEXTS), ["good"], NO_TEXT),
    "encrypted.zip": (
        ENCRYPTED, ["Anon/Café", "Homer/Iliad"], [("Jane Austen/Emma.txt", "encrypted")]
    ),
    "cut.zip": (LONG_ZIP[:-40], [], DAMAGED),
    "none.zip": (b"no zip at all" * 100, [], DAMAGED),
    "member.zip": (
        changed(LONG_ZIP, 200, bytes(20)), [f"book {at}" for at in range(1, 8)],
        [("book 0.txt", "damaged")],
    ),
    "cut.epub": (EPUB[:300], [], DAMAGED),
    "none.epub": (forms.zip_of({"mimetype": b"application/epub+zip"}), [], DAMAGED),
    "renamed.epub": (EPUB.replace(b"INF/container", b"INF/containre"), [], DAMAGED),
    "drm.epub": (epub(encryption=LOCKED), [], [(None, "encrypted")]),
    "laughs.epub": (epub(container=laughs()), [], DAMAGED),
    "large.epub": (epub("y" * (5 << 20)), [], [(None, "too_large")]),
    "rows.jsonl": (b"\n".join(ROWS), ["row-000000000", "row-000000008"], NO_ROWS),
    "other.parquet": (forms.parquet_of([{"words": "x"}]), [], NO_COLUMN),
    "numbers.parquet": (forms.parquet_of([{"text": 1}]), [], NO_COLUMN),
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
def test_a_tar_cut_or_overwritten_anywhere_is_damaged_and_keeps_complete_members(
    codec: str,
) -> None:
    data = packed(forms.tar_of(LONG), codec)
    half = len(data) // 2
    assert len(read(data, f"a.tar{codec}")[0]) == 8
    for cut in (100, 512, 600, half, half // 512 * 512, len(data) * 3 // 4):
        pieces, refused = read(data[:cut], f"a.tar{codec}")
        assert "damaged" in {rule for _, rule in rules(refused)}
        assert all(piece.text.encode() == LONG[piece.inside] for piece in pieces.values())
        assert len(pieces) < 8
    overwritten = data[:half] + b"\xaa" * (len(data) - half)
    assert "damaged" in {rule for _, rule in rules(read(overwritten, f"a.tar{codec}")[1])}


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
    stream = inflated(Counted(io.BytesIO(bomb)), codec[1:], SMALL.limits)
    with pytest.raises(RefusedError) as caught:
        read_whole(stream, 1 << 30)
    assert caught.value.rule == "bomb"
    assert stream.count <= max(SLACK, 100 * len(bomb)) + (1 << 16)
    data = packed(
        forms.tar_of({"good.txt": b"words", "b.txt": bytes(BOMB), "lost.txt": b"w"}), codec
    )
    with memory_below(12):
        pieces, refused = read(data, f"b.tar{codec}")
    assert list(pieces) == [f"b.tar{codec}/good"]
    assert rules(refused) == [("b.txt", "too_large"), (None, "bomb")]


HEADER = member("x", tarfile.XHDTYPE, size=300 << 20).tobuf(tarfile.PAX_FORMAT)
MEMBERS = {"a.txt": b"1", "bomb.txt": bytes(2 * BOMB), "c.txt": b"2"}
MANY = {f"{number}.txt": b"words \n" * (500 << 10) for number in range(9)}
ENDLESS = packed(HEADER + b"1" * BOMB, ".bz2")


@pytest.mark.parametrize(
    ("name", "data", "limits", "books", "wanted", "mebibytes"),
    [
        ("a.zip", forms.zip_of(MEMBERS), {}, "ac", [("bomb.txt", "too_large")], 24),
        ("many.zip", forms.zip_of(MANY), {"archive": 20 << 20}, "01234", [(None, "bomb")], 64),
        ("header.tar.bz2", ENDLESS, {"ratio": 100_000}, "", DAMAGED, 8),
    ],
    ids=["a member", "the sum", "a header"],
)
def test_memory_is_bounded(
    name: str, data: bytes, limits: dict[str, int], books: str, wanted: Refusals, mebibytes: int
) -> None:
    reading = replace(SMALL, limits=replace(SMALL.limits, **limits))
    with memory_below(mebibytes):
        pieces, refused = read(data, name, reading)
    assert list(pieces) == [f"{name}/{book}" for book in books]
    assert rules(refused) == wanted


def test_a_text_repeated_in_parquet_is_held_once() -> None:
    text = "x" * 5_000 + "\n" + "y" * 900_000
    data = forms.parquet_of([{"text": text if number else "first"} for number in range(100)])
    assert len(data) < 4 << 20
    limits = replace(SMALL.limits, line=1_000_000)
    reading = replace(SMALL, limits=limits, rows="documents")
    form, before, peaks = Form("parquet", None, ".parquet"), pa.total_allocated_bytes(), []
    for _ in read_container(io.BytesIO(data), len(data), form, "r.parquet", reading):
        peaks.append(pa.total_allocated_bytes() - before)
    assert len(peaks) == 100
    assert max(peaks) < 16 << 20


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
