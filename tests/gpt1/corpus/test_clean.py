"""Each cleaning rule, on text like what it was made for, and on text it must leave alone."""

from __future__ import annotations

from gpt1.corpus.boilerplate import remove_boilerplate
from gpt1.corpus.book import Book
from gpt1.corpus.clean import CleaningRules, clean
from gpt1.corpus.embedded import FALLBACK, embedded_files
from gpt1.corpus.join_lines import join_lines
from gpt1.corpus.text_file import read_text


def book(text: str) -> Book:
    return Book("id", "title", None, "source", text)


def test_header_footer_credits_and_illustrations_go() -> None:
    text = (
        "The Project Gutenberg EBook of X\n\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\n"
        "Produced by A. Reader and\nothers\n\n"
        "It began.\n\n[Illustration: A horse\nand a man]\n\nIt ended.\n\nEnd of the Project Gutenberg EBook of X\n\nLicence."
    )
    cleaned, counts = remove_boilerplate(text)
    assert cleaned.split() == ["It", "began.", "It", "ended."]
    assert counts == {"gutenberg_header": 1, "gutenberg_footer": 1, "credits": 1, "illustration": 1}


def test_the_same_words_inside_sentences_stay() -> None:
    text = "There was a spasm\nproduced by an endeavor to laugh.\n\nHe read of the end of Project X [and more].\n"
    assert remove_boilerplate(text) == (text, {})


def test_gutenberg_licence_of_an_embedded_book_goes() -> None:
    name = "problemG/Gtrain02-03.txt"
    cleaned = clean(book(read_text(embedded_files()[name], name, FALLBACK)[0]), CleaningRules())
    assert cleaned.counts["gutenberg_header"] == cleaned.counts["gutenberg_footer"] == 1
    assert "gutenberg" not in cleaned.book.text.lower()
    assert cleaned.book.text.startswith("THE CHESSMEN OF MARS")


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


def test_line_ends_come_before_ftfy_and_nothing_else_changes_without_rules() -> None:
    kept = clean(book("one\r\r\ntwo\r\nthree\rfour &amp; “five”\n\n\n six "), CleaningRules(False, False, 1))
    assert kept.book.text == 'one\ntwo\nthree\nfour & "five"\n\n\n six '
    assert kept.counts == {"ftfy": 1, "line_ends": 3}
    assert kept.rejected is None


def test_a_short_book_is_rejected_with_its_evidence() -> None:
    rejected = clean(book("only four words here"), CleaningRules(minimum_words=5))
    assert (rejected.rejected, rejected.evidence) == ("too_short", "4 words; at least 5 wanted")
    assert rejected.book.text == "only four words here"


def test_joining_lines_loses_no_word_of_the_embedded_books() -> None:
    for name in ("homer/Homer_Iliad_book01.txt", "problemG/Gsample01.txt", "brontes/Charlotte_Bronte_Jane_Eyre_ch01.txt"):
        raw = book(read_text(embedded_files()[name], name, FALLBACK)[0])
        off = clean(raw, CleaningRules(join_lines=False)).book.text
        on = clean(raw, CleaningRules(join_lines=True)).book.text
        squeezed = ["".join(text.split()) for text in (on, off)]
        assert squeezed[0] == squeezed[1]
        assert on.count("\n") < off.count("\n") / 2
