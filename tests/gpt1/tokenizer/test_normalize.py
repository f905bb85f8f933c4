"""Fixing against ftfy on complete texts, and standardising against OpenAI's regexes."""

import ftfy
import pytest
from hypothesis import given, settings

from gpt1.tokenizer.normalize import blocks, fix_text, separate, split_chunks, standardize
from tests.gpt1 import straight_reading
from tests.gpt1.tokenizer.hostile import code_points, random_texts, sweep, texts

LONG = 1_000_000
# Where ftfy's patterns look: alone, between letters, by quotes, dashes, accents, at a line's ends.
PLACES = ["{}", "a{}b", "x {} y", "“{}”", "’{}—", "é{}é", "É{}…", "{}\n{}", "&{};", ".{} "]
COMMON = [*range(0x530), *range(0x2000, 0x2300), *range(0x3000, 0x3010), *range(0xFB00, 0xFB07)]


def chunks_of(line: str) -> list[str]:
    """The segments of a line's chunks, in order."""
    found, places = split_chunks(line)
    places = range(len(found)) if places is None else places
    chunks = [found[place].decode("utf-8", "surrogatepass") for place in places]
    return " ".join(separate([chunk for chunk in chunks if chunk])).split()


@settings(max_examples=400, deadline=None)
@given(text=texts())
def test_any_text(text: str) -> None:
    assert fix_text(text) == ftfy.fix_text(text)
    wanted = straight_reading.standardize(text)
    assert standardize(text) == wanted
    lines = [chunks_of(line) for line in text.split("\n")]
    assert " \n ".join(" ".join(line) for line in lines if line) == wanted
    found = list(blocks(text, 5))
    assert "".join(found) == text
    assert all(block.endswith("\n") for block in found[:-1])


def test_many_texts_and_code_points_beside_others() -> None:
    codes = map(chr, [*COMMON, *range(0xFEF0, 0x10010)])
    beside = (place.replace("{}", sign) for sign in codes for place in PLACES)
    for text in (*random_texts(1, 8_000), *beside):
        assert fix_text(text) == ftfy.fix_text(text)


@pytest.mark.slow
def test_all_code_points() -> None:
    for text in sweep(code_points(rare=49)):
        assert fix_text(text) == ftfy.fix_text(text)
        assert standardize(text) == straight_reading.standardize(text)


def test_lines_that_ftfy_cuts_and_entities_from_the_first_tag_on() -> None:
    for text in (
        "a" * (LONG - 1) + "\r" + "\nb ’ &amp; <b> &amp;", "a" * (LONG - 1) + "\r\n" + "b’\n" * 3,
        "a" * LONG + "’\n" + "&lt;\n<\n&lt;\n", ("’" * 999_999 + "\n") * 2 + "&amp; < &amp;\n&amp;",
        "&amp; <" + "x" * LONG + "&amp; ﬁ", "&amp;\n" + "x" * LONG + "<\n&amp;",
        "&amp; one\n&amp; <b> two\n&amp; “three” é\n",
    ):  # fmt: skip
        assert fix_text(text) == ftfy.fix_text(text)
