"""Encodings: what is decided for which bytes, and what is refused."""

from __future__ import annotations

import codecs
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1.corpus.sources.decode import decode
from gpt1.corpus.sources.piece import RefusedError
from gpt1.corpus.sources.text import check_text, text_piece
from tests.gpt1.corpus.forms_of_books import SMALL

TEXT = "“Well,” said he — the café was naïve; it’s so.\r\n" * 20
PLAIN = "Le café était fermé à l'heure dite, et la fenêtre brûlait.\n" * 5


@pytest.mark.parametrize(
    ("data", "encoding", "how"),
    [
        (TEXT.encode(), "utf-8", "valid UTF-8"),
        (codecs.BOM_UTF8 + TEXT.encode(), "utf-8", "byte order mark"),
        (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), "utf-16-le", "byte order mark"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "utf-16-be", "byte order mark"),
        (codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"), "utf-32-le", "byte order mark"),
        (TEXT.encode("utf-16-le"), "utf-16-le", "NUL bytes in every other place"),
        (TEXT.encode("utf-16-be"), "utf-16-be", "NUL bytes in every other place"),
        (TEXT.encode("windows-1252"), "windows-1252", "detected: not UTF-8, bytes from 0x80 to 0x9f"),
    ],
)
def test_every_encoding_gives_the_same_text(data: bytes, encoding: str, how: str) -> None:
    decoded = decode(data)
    assert (decoded.text, decoded.encoding, decoded.how, decoded.replaced) == (TEXT, encoding, how, 0)


def test_latin_1_is_told_from_windows_1252_by_the_bytes_it_does_not_use() -> None:
    decoded = decode(PLAIN.encode("latin-1"))
    assert (decoded.text, decoded.encoding, decoded.how) == (PLAIN, "latin-1", "detected: not UTF-8, no byte from 0x80 to 0x9f")


def test_an_undefined_byte_of_windows_1252_is_counted() -> None:
    decoded = decode(b"it\x92s \x81 so, said the man who had been there before", "windows-1252")
    assert (decoded.text[:8], decoded.replaced) == ("it’s \ufffd s", 1)


def test_no_fallback_and_a_given_one() -> None:
    with pytest.raises(RefusedError, match=r"byte 3 \(0xe9\) is not UTF-8") as caught:
        decode(b"caf\xe9 au lait", "none")
    assert caught.value.rule == "invalid_utf8"
    assert decode(b"caf\xe9", "latin-1").text == "café"


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (TEXT.encode()[:500] + b"\xff" + TEXT.encode(), "invalid_utf8"),
        ("“Ça”, dit-il. ".encode() * 50 + b"\xe2\x80", "invalid_utf8"),
        ("Все счастливые семьи похожи друг на друга. ".encode("cp1251") * 50, "undecodable"),
        ("吾輩は猫である。名前はまだ無い。".encode("shift_jis") * 50, "undecodable"),
        (bytes(random.Random(1).choices(range(1, 256), k=5000)), "undecodable"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "nul"),
        (b"text\x00text", "nul"),
        (bytes(1000), "nul"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8\x41\x00", "undecodable"),
        (codecs.BOM_UTF8 + b"caf\xe9", "undecodable"),
    ],
)
def test_what_is_no_text_is_refused_by_its_rule(data: bytes, rule: str) -> None:
    with pytest.raises(RefusedError) as caught:
        decode(data)
    assert caught.value.rule == rule


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), min_size=1))
def test_utf_8_is_read_back_whatever_it_says(text: str) -> None:
    assert decode(text.encode()).text == text


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=8, max_size=300),
    st.sampled_from(["utf-16-le", "utf-16-be"]),
)
def test_ascii_in_utf_16_needs_no_mark(text: str, encoding: str) -> None:
    assert (decode(text.encode(encoding)).text, decode(text.encode(encoding)).encoding) == (text, encoding)


@given(st.binary(max_size=400))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        rule = None if "\0" not in text_piece(data, "a.txt", "a", "a.txt", None, SMALL).text else "NUL let through"
    except RefusedError as error:
        rule = error.rule
    assert rule in {None, "empty", "nul", "undecodable", "invalid_utf8"}


@given(st.lists(st.integers(0, 25), min_size=1, max_size=30), st.sampled_from(["\n", "\r\n", "\r"]), st.integers(10, 20))
def test_the_longest_line_is_found_exactly(lengths: list[int], end: str, limit: int) -> None:
    text = "".join("x" * length + end for length in lengths) + "."
    reading = replace(SMALL, limits=replace(SMALL.limits, line=limit))
    if max(lengths) <= limit:
        check_text(text, reading)
        return
    with pytest.raises(RefusedError, match=f"a line of more than {limit} characters") as caught:
        check_text(text, reading)
    assert caught.value.rule == "long_line"
