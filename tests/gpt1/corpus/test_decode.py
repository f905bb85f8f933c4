"""Encodings: what is decided for which bytes, and what is refused."""

import codecs
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt1.corpus.document import UnreadableFileError
from gpt1.corpus.readers.text import decode
from tests.gpt1.corpus.forms_of_books import read, rules

TEXT = "“Well,” said he — the café was naïve; it’s so.\r\n" * 20
PLAIN = "Le café était fermé à l'heure dite, et la fenêtre brûlait.\n" * 5
MARK, PATTERN = "byte order mark", "NUL bytes in every other place"
GUESSED = "detected: not UTF-8, "
CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0\ufeff")


@pytest.mark.parametrize(("mark", "text", "encoding", "how"), [
    (b"", TEXT, "utf-8", "valid UTF-8"), (codecs.BOM_UTF8, TEXT, "utf-8", MARK),
    (codecs.BOM_UTF16_LE, TEXT, "utf-16-le", MARK), (codecs.BOM_UTF16_BE, TEXT, "utf-16-be", MARK),
    (codecs.BOM_UTF32_LE, TEXT, "utf-32-le", MARK),
    (b"", TEXT, "utf-16-le", PATTERN), (b"", TEXT, "utf-16-be", PATTERN),
    (b"", TEXT, "windows-1252", f"{GUESSED}bytes from 0x80 to 0x9f"),
    (b"", PLAIN, "latin-1", f"{GUESSED}no byte from 0x80 to 0x9f"),
])  # fmt: skip
def test_each_encoding_gives_the_same_text(mark: bytes, text: str, encoding: str, how: str) -> None:
    found = decode(mark + text.encode(encoding))
    assert (found.text, found.encoding, found.how, found.replaced) == (text, encoding, how, 0)


def test_a_given_fallback() -> None:
    decoded = decode(b"it\x92s \x81 so, said the man who had been there before", "windows-1252")
    assert (decoded.text[:8], decoded.replaced) == ("it’s \ufffd s", 1)
    assert decode(b"caf\xe9", "latin-1").text == "café"
    with pytest.raises(UnreadableFileError, match=r"byte 3 \(0xe9\) is not UTF-8"):
        decode(b"caf\xe9 au lait", "none")


@pytest.mark.parametrize(("data", "rule"), [
    (TEXT.encode()[:500] + b"\xff" + TEXT.encode(), "invalid_utf8"),
    ("“Ça”, dit-il. ".encode() * 50 + b"\xe2\x80", "invalid_utf8"),
    ("Все счастливые семьи похожи друг на друга. ".encode("cp1251") * 50, "undecodable"),
    ("吾輩は猫である。名前はまだ無い。".encode("shift_jis") * 50, "undecodable"),
    (bytes(random.Random(1).choices(range(1, 256), k=5000)), "undecodable"),
    (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "nul"), (bytes(1000), "nul"),
    (codecs.BOM_UTF16_LE + b"\x00\xd8\x41\x00", "undecodable"),
    (codecs.BOM_UTF8 + b"caf\xe9", "undecodable"),
])  # fmt: skip
def test_what_is_no_text_is_refused_by_its_rule(data: bytes, rule: str) -> None:
    assert rules(read(data, "a.txt")[1]) == [(None, rule)]


@settings(deadline=None)
@given(st.text(CHARACTERS, min_size=1), st.binary(min_size=8))
def test_utf_8_and_ascii_in_utf_16_are_read_back(text: str, data: bytes) -> None:
    assert decode(text.encode()).text == text
    printable = "".join(chr(32 + byte % 95) for byte in data)
    for encoding in ("utf-16-le", "utf-16-be"):
        assert decode(printable.encode(encoding)).text == printable


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    pieces, refused = read(data, "a.txt")
    assert not any("\0" in piece.text for piece in pieces.values())
    allowed = {"empty", "nul", "undecodable", "invalid_utf8"}
    assert len(pieces) + sum(rule in allowed for _, rule in rules(refused)) == 1
