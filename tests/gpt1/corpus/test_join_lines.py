"""Hard-wrapped prose is joined, verse and what is not wrapped stay."""

from __future__ import annotations

from gpt1.corpus.book import Book
from gpt1.corpus.clean import clean
from gpt1.corpus.embedded import FALLBACK, embedded_files
from gpt1.corpus.rules.join_lines import join_lines
from gpt1.corpus.text_file import read_text

PROSE = [
    "It was a matchless morning in rural England, and upon a fair",
    "hill there stood a majestic pile, the ivied walls and towers of",
    "the castle, huge relic and witness of the baronial grandeur of a",
    "well-",
    "ordered age.",
]
VERSE = ["The wine is bright, the wine is bright;", "And gay the drinkers be:", "Of all that drain the bowl to-night,"]


def test_prose_is_joined_and_verse_is_not() -> None:
    width = 64
    paragraph = "\n".join(line.ljust(width - 4, "x") if index < 3 else line for index, line in enumerate(PROSE))
    verse = "\n".join(f"    {line}" for line in VERSE)
    text = "\n\n".join([*["\n".join(PROSE[:3])] * 12, verse, paragraph])
    joined, number = join_lines(text)
    paragraphs = joined.split("\n\n")
    assert paragraphs[0] == " ".join(PROSE[:3])
    assert paragraphs[12] == "\n".join(VERSE)
    assert number >= 24


def test_a_hyphen_at_the_line_end_keeps_the_word_together() -> None:
    wrapped = "\n\n".join(["as a dark-haired young man who was red-\nskinned bent low toward her and whispered"] * 25)
    joined, _ = join_lines(wrapped)
    assert joined.split("\n\n")[0] == "as a dark-haired young man who was red-skinned bent low toward her and whispered"


def test_a_book_with_paragraphs_on_one_line_stays_as_it_is() -> None:
    text = "\n".join(" ".join(["word"] * 100) for _ in range(40))
    assert join_lines(text) == (text, 0)


def test_markdowns_two_spaces_are_a_break_that_is_meant() -> None:
    verse = "Thou art mine, Agnes, for ever and a day so long  \nI am thine for all the days that are to come  \nto both"
    text = "\n\n".join(["\n".join(PROSE[:3])] * 12 + [verse])
    assert join_lines(text)[0].split("\n\n")[-1].count("\n") == 2
    unwrapped = "\n\n".join([" ".join(PROSE)] * 40 + [verse] * 12)
    assert join_lines(unwrapped)[1] == 0
    padded = "\n\n".join(["  \n".join(PROSE[:3])] * 12)
    assert join_lines(padded)[1] == 24


def test_joining_lines_loses_no_letter_of_the_embedded_books() -> None:
    for name in ("homer/Homer_Iliad_book01.txt", "problemG/Gsample01.txt", "brontes/Charlotte_Bronte_Jane_Eyre_ch01.txt"):
        raw = Book("id", "title", None, "source", read_text(embedded_files()[name], name, FALLBACK)[0])
        off, on = (clean(raw, {"join_lines": switch}).book.text for switch in (False, True))
        assert "".join(on.split()) == "".join(off.split())
        assert on.count("\n") < off.count("\n") / 2
