"""Broken and hostile files: a record each, everything else read, and no more bytes unpacked than the ceilings say."""

from __future__ import annotations

import io
import lzma
import tarfile
import tracemalloc
import zipfile
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt1.corpus.sources.container import read_container
from gpt1.corpus.sources.forms import form_of
from gpt1.corpus.sources.inflate import Counted, inflated, read_whole
from gpt1.corpus.sources.limits import SLACK
from gpt1.corpus.sources.piece import RefusedError
from tests.gpt1.corpus.forms_of_books import (
    SMALL,
    as_files,
    as_rows,
    epub_of,
    jsonl_of,
    packed,
    page,
    parquet_of,
    read,
    rules,
    tar_of,
    zip_of,
)  # fmt: skip

LONG = {
    f"book {number}.txt": b"".join(b"Line %d of book %d.\n" % (line * line, number) for line in range(4000)) for number in range(8)
}


def members(*infos: tarfile.TarInfo) -> bytes:
    """A tar of a good book, these members, and another good book."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info in (good("a.txt"), *infos, good("z.txt")):
            archive.addfile(info, io.BytesIO(b"words" + bytes(max(0, info.size - 5))) if info.isreg() else None)
    return out.getvalue()


def good(name: str, **about: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = 5
    for key, value in about.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize("codec", [".gz", ".bz2", ".xz", ".zst"])
def test_a_truncated_archive_keeps_what_came_before(codec: str) -> None:
    data = packed(tar_of(LONG), codec)
    pieces, refused = read(data[: len(data) * 3 // 4], f"a.tar{codec}")
    assert ("damaged" in {rule for _, rule in rules(refused)}, len(pieces) < 8) == (True, True)
    assert all(piece.text.encode() == LONG[piece.inside] for piece in pieces.values())


def test_a_tar_cut_anywhere_is_said_and_keeps_whole_members() -> None:
    data = tar_of(LONG)
    whole, refused = read(data, "a.tar")
    assert (len(whole), refused) == (8, [])
    for cut in (100, 512, 600, len(data) // 2, len(data) // 2 // 512 * 512):
        pieces, refused = read(data[:cut], "a.tar")
        assert "damaged" in {rule for _, rule in rules(refused)}, cut
        assert all(pieces[book].text == whole[book].text for book in pieces)
    broken = bytearray(data)
    broken[(len(data) // 1024) * 512 :] = b"\xaa" * (len(data) - (len(data) // 1024) * 512)
    assert "damaged" in {rule for _, rule in rules(read(bytes(broken), "a.tar")[1])}


def test_links_devices_and_names_that_lead_out() -> None:
    link = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd", "size": 0}
    data = members(
        good("../up.txt"), good("/etc/absolute.txt"), good("x/../../up.txt"), good("link.txt", **link),
        good("C:\\x\\..\\..\\y.txt"),
        good("hard.txt", type=tarfile.LNKTYPE, linkname="a.txt", size=0), good("null.txt", type=tarfile.CHRTYPE, size=0),
        good("fifo.txt", type=tarfile.FIFOTYPE, size=0), good("odd\x1bname.txt"),
    )  # fmt: skip
    pieces, refused = read(data, "t.tar")
    assert list(pieces) == ["t.tar/a", "t.tar/z"]
    assert [rule for _, rule in rules(refused)] == [
        "unsafe_path", "unsafe_path", "unsafe_path", "not_a_file", "unsafe_path", "not_a_file", "not_a_file", "not_a_file",
        "bad_name",
    ]  # fmt: skip
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../up.txt", "words")
        linked = zipfile.ZipInfo("link.txt")
        linked.external_attr = 0o120777 << 16
        archive.writestr(linked, "/etc/passwd")
        archive.writestr("a.txt", "words")
    pieces, refused = read(out.getvalue(), "t.zip")
    assert (list(pieces), rules(refused)) == (["t.zip/a"], [("../../up.txt", "unsafe_path"), ("link.txt", "not_a_file")])


@pytest.mark.parametrize("codec", [".gz", ".bz2", ".xz", ".zst"])
def test_a_bomb_is_unpacked_to_its_ceiling_and_no_further(codec: str) -> None:
    bomb = packed(bytes(200 << 20), codec)
    stream = inflated(Counted(io.BytesIO(bomb)), codec[1:], SMALL.limits)
    with pytest.raises(RefusedError) as caught:
        read_whole(stream, 1 << 30)
    assert caught.value.rule == "bomb"
    assert stream.count <= max(SLACK, 100 * len(bomb)) + (1 << 16)
    data = packed(tar_of({"good.txt": b"words", "bomb.txt": bytes(150 << 20), "lost.txt": b"w"}), codec)
    tracemalloc.start()
    pieces, refused = read(data, f"b.tar{codec}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert list(pieces) == [f"b.tar{codec}/good"]
    assert rules(refused) == [("bomb.txt", "too_large"), (None, "bomb")]
    assert peak < 12 << 20


def test_a_zip_bomb_costs_its_member_and_not_the_memory() -> None:
    data = zip_of({"good.txt": b"words", "bomb.txt": bytes(300 << 20), "also.txt": b"more words"})
    tracemalloc.start()
    pieces, refused = read(data, "b.zip")
    assert tracemalloc.get_traced_memory()[1] < 24 << 20
    tracemalloc.stop()
    assert (list(pieces), rules(refused)) == (["b.zip/good", "b.zip/also"], [("bomb.txt", "too_large")])


def test_many_small_bombs_stop_at_the_sum() -> None:
    limits = replace(SMALL.limits, document=4 << 20, archive=20 << 20)
    data = zip_of({f"{number}.txt": (b"words \n" * (500 << 10)) for number in range(9)})
    pieces, refused = read(data, "b.zip", replace(SMALL, limits=limits))
    assert (len(pieces) < 9, refused[-1].rule, refused[-1].member) == (True, "bomb", None)


def test_a_header_that_never_ends_does_not_fill_the_memory() -> None:
    header = good("x", type=tarfile.XHDTYPE, size=300 << 20).tobuf(tarfile.PAX_FORMAT)
    data = packed(header + b"1" * (40 << 20), ".bz2")
    tracemalloc.start()
    pieces, refused = read(data, "h.tar.bz2", replace(SMALL, limits=replace(SMALL.limits, ratio=100_000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (pieces, [rule for _, rule in rules(refused)]) == ({}, ["damaged"])
    assert peak < 8 << 20


def test_members_that_are_no_texts_cost_themselves_alone() -> None:
    files = {
        "good.txt": b"words", "notes.csv": b"a,b", ".hidden.txt": b"x", "inner.zip": zip_of(as_files()),
        "cut.txt.gz": packed(b"words" * 99, ".gz")[:-4],
    }  # fmt: skip
    for name, data in (("m.zip", zip_of(files)), ("m.tar", tar_of(files))):
        pieces, refused = read(data, name)
        assert list(pieces) == [f"{name}/good"]
        assert rules(refused) == [("notes.csv", "unknown_form"), ("inner.zip", "nested"), ("cut.txt.gz", "damaged")]


def test_an_encrypted_zip_and_a_damaged_one() -> None:
    data = bytearray(zip_of(as_files()))
    place = data.find(b"PK\x01\x02")
    data[place + 8] |= 1  # the directory's flag of the first member
    pieces, refused = read(bytes(data), "e.zip")
    assert (len(pieces), rules(refused)) == (2, [("Jane Austen/Emma.txt", "encrypted")])
    whole = zip_of(LONG)
    assert rules(read(whole[:-40], "d.zip")[1]) == [(None, "damaged")]
    assert rules(read(b"no zip at all" * 100, "d.zip")[1]) == [(None, "damaged")]
    broken = bytearray(whole)
    broken[200:220] = bytes(20)
    pieces, refused = read(bytes(broken), "d.zip")
    assert (len(pieces), rules(refused)) == (7, [("book 0.txt", "damaged")])


def test_a_damaged_epub_and_one_with_drm() -> None:
    book = epub_of("T", "A", {"a.xhtml": page("Words.")})
    renamed = book.replace(b"META-INF/container", b"META-INF/containre")
    for data in (book[:300], zip_of({"mimetype": b"application/epub+zip"}), renamed):
        assert rules(read(data, "x.epub")[1]) == [(None, "damaged")]
    locked = b'<e><CipherReference URI="OEBPS/text/a.xhtml"/></e>'
    data = epub_of("T", "A", {"a.xhtml": page("Words.")}, {"META-INF/encryption.xml": locked})
    assert rules(read(data, "x.epub")[1]) == [(None, "encrypted")]
    laughs = b'<!DOCTYPE c [<!ENTITY a "' + b"ha" * 5000 + b'">' + b"".join(
        b'<!ENTITY %c "%s">' % (98 + level, b"&%c;" % (97 + level) * 20) for level in range(6)
    ) + b"]><c>&g;</c>"  # fmt: skip
    assert rules(read(zip_of({"META-INF/container.xml": laughs}), "x.epub")[1]) == [(None, "damaged")]
    assert rules(read(epub_of("T", "A", {"a.xhtml": "y" * (5 << 20)}), "x.epub")[1]) == [(None, "too_large")]


def test_rows_that_are_none() -> None:
    lines = [b'{"text": "one"}', b"{broken", b"[1]", b'{"words": "x"}', b'{"text": 7}', b"", b'{"text": "\\ud800"}', b"[" * 99_999]
    pieces, refused = read(b"\n".join([*lines, b'{"text": "last"}']), "r.jsonl")
    assert [piece.text for piece in pieces.values()] == ["one", "last"]
    assert rules(refused) == [
        ("row 1", "bad_row"), ("row 2", "no_text_column"), ("row 3", "no_text_column"), ("row 4", "bad_row"),
        ("row 6", "undecodable"), ("row 7", "bad_row"),
    ]  # fmt: skip
    assert rules(read(parquet_of([{"words": "x"}]), "r.parquet")[1]) == [(None, "no_text_column")]
    assert rules(read(parquet_of([{"text": 1}]), "r.parquet")[1]) == [(None, "no_text_column")]
    assert rules(read(parquet_of([{"text": None}, {"text": "x"}]), "r.parquet")[1]) == [("row 0", "empty")]


def test_a_text_repeated_a_thousand_times_in_parquet_is_held_once() -> None:
    data = parquet_of([{"text": "x" * 5_000 + "\n" + "y" * 900_000 if index else "first"} for index in range(400)])  # type: ignore[misc]
    assert len(data) < 4 << 20
    form = form_of("r.parquet")
    assert form is not None
    reading = replace(SMALL, limits=replace(SMALL.limits, line=1_000_000), rows="documents")
    before, peak, number = pa.total_allocated_bytes(), 0, 0
    for _ in read_container(io.BytesIO(data), len(data), form, "r.parquet", reading):
        peak = max(peak, pa.total_allocated_bytes() - before)
        number += 1
    assert (number, peak < 16 << 20) == (400, True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["a.tar", "a.tar.gz", "a.tar.xz", "a.tar.zst", "a.zip", "a.parquet", "a.jsonl", "a.epub"]), st.data())
def test_whatever_is_damaged_ends_in_books_and_records(name: str, data: st.DataObject) -> None:
    made = {
        "zip": zip_of(as_files()), "parquet": parquet_of(as_rows()), "jsonl": jsonl_of(as_rows()),
        "epub": epub_of("T", "A", {"a.xhtml": page("Words.")}),
    }  # fmt: skip
    suffix = name.rpartition(".")[2]
    whole = made.get(suffix) or packed(tar_of(as_files()), "" if suffix == "tar" else f".{suffix}")
    broken = bytearray(whole[: data.draw(st.integers(1, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    _, refused = read(bytes(broken), name)
    rules(refused)


def test_an_xz_that_wants_too_much_memory_is_damaged_for_us() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 30}]
    header = lzma.compress(b"words", filters=filters)
    assert rules(read(header, "a.txt.xz")[1]) == [(None, "damaged")]
