"""Mending against ftfy on whole texts, and standardising against OpenAI's regexes."""

from __future__ import annotations

import sys

import ftfy
import pytest
from hypothesis import given, settings

from gpt1.text.normalise import blocks, chunks, fix, padded, standardise
from tests.gpt1 import straight_reading
from tests.gpt1.real_books import embedded
from tests.gpt1.text.hostile import code_points, random_texts, sweep, texts

LONG = 1_000_000


@settings(max_examples=400, deadline=None)
@given(text=texts())
def test_any_text_is_mended_as_ftfy_does(text: str) -> None:
    assert fix(text) == ftfy.fix_text(text)


def test_many_texts_are_mended_as_ftfy_does() -> None:
    for text in random_texts(1, 20_000):
        assert fix(text) == ftfy.fix_text(text)


def test_code_points_below_the_surrogates_alone_and_beside_others() -> None:
    """The places ftfy's patterns look at: alone, between letters, beside quotes, dashes, accents, at either end of a line."""
    places = ["{}", "a{}b", "x {} y", "“{}”", "’{}—", "é{}é", "É{}…", "{}\n{}", "&{};", ".{} "]
    for code in [*range(0x530), *range(0x2000, 0x2300), *range(0x3000, 0x3010), *range(0xFB00, 0xFB07), *range(0xFEF0, 0x10010)]:
        for place in places:
            text = place.replace("{}", chr(code))
            assert fix(text) == ftfy.fix_text(text)


@pytest.mark.slow
def test_all_code_points() -> None:
    for text in sweep(code_points(rare=9)):
        assert fix(text) == ftfy.fix_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "a" * (LONG - 1) + "\r" + "\nb ’ &amp; <b> &amp;",
        "a" * (LONG - 1) + "\r\n" + "b’\n" * 3,
        "a" * LONG + "’\n" + "&lt;\n<\n&lt;\n",
        ("’" * 999_999 + "\n") * 2 + "&amp; < &amp;\n&amp;",
        "&amp; <" + "x" * LONG + "&amp; ﬁ",
        "&amp;\n" + "x" * LONG + "<\n&amp;",
    ],
    ids=["line feed parted", "line feed kept", "just long", "just not long", "tag first", "tag in a long line"],
)
def test_lines_that_ftfy_cuts(text: str) -> None:
    assert fix(text) == ftfy.fix_text(text)


def test_entities_are_kept_from_the_line_of_the_first_tag_on() -> None:
    assert fix("&amp; one\n&amp; <b> two\n&amp; “three” é\n") == '& one\n&amp; <b> two\n&amp; "three" é\n'


def test_embedded_books_are_mended_as_ftfy_does() -> None:
    for text in [*embedded("brontes")[:4], *embedded("homer")[:4]]:
        assert fix(text) == ftfy.fix_text(text)
        wild = text.replace("the ", "the “œuvre” — ").replace(" and", " &amp; é—", 20).replace("\n", "\r\n")
        assert fix(wild) == ftfy.fix_text(wild)


@settings(max_examples=400, deadline=None)
@given(text=texts())
def test_standardise(text: str) -> None:
    assert standardise(text) == straight_reading.standardise(text)


def test_standardise_all_code_points() -> None:
    for text in sweep(range(0, sys.maxunicode, 7)):
        assert standardise(text) == straight_reading.standardise(text)


@settings(max_examples=400, deadline=None)
@given(text=texts())
def test_chunks_are_standardise_by_parts(text: str) -> None:
    lines = [" ".join(" ".join(padded(chunk) for chunk in chunks(line)).split()) for line in text.split("\n")]
    assert " \n ".join(filter(None, lines)) == straight_reading.standardise(text)


@settings(max_examples=100, deadline=None)
@given(text=texts())
def test_blocks_are_whole_lines(text: str) -> None:
    found = list(blocks(text, 5))
    assert "".join(found) == text
    assert all(block.endswith("\n") for block in found[:-1])
