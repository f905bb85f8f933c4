"""Each text rule, on text like what it was made for, and on text it must leave alone."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from gpt1.corpus.rules.registry import TEXT_RULES
from gpt1.corpus.rules.tables import BORDER

RULES = {rule.name: rule for rule in TEXT_RULES}
FILLER = "\n\n".join(["It was a bright cold day in April, and the clocks were striking."] * 400)


def after(rule: str, text: str) -> str:
    return RULES[rule].apply(text).text


GUTENBERG = (
    "The Project Gutenberg EBook of X\n\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\n"
    "It began.\n\nIt ended.\n\nEnd of the Project Gutenberg EBook of X\n\nLicence."
)
LICENCE = (
    "Night Train\n\nBy Ann Author\n\nPublished by Ann Author at Smashwords\n\nCopyright 2011 Ann Author\n\n"
    "Smashwords Edition, License Notes\n\nThis ebook is licensed for your personal enjoyment only. This ebook may not be re-sold "
    "or given away to other people. If you would like to share it, please purchase an additional copy. Thank you for respecting "
    "the hard work of this author.\n\nChapter One\n\nThe train left.\n\n"
)
END = "\n\nShe smiled.\n\n###\n\nAbout the author:\nAnn lives by the sea.\n\nConnect with me online:\nhttp://twitter.com/ann\n"
NOTE_BOX = "+------------+\n| Transcriber's Note: |\n| Spelling kept. |\n+------------+"
TABLE = "| No. | Symbols |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"


@pytest.mark.parametrize(
    ("rule", "text", "wanted"),
    [
        ("line_ends", "a\r\nb\rc\r\r\nd", "a\nb\nc\nd"),
        ("ftfy", "“quoted” caf\u00c3\u00a9 &lt;", '"quoted" café <'),
        ("gutenberg", GUTENBERG, "\nIt began.\n\nIt ended.\n\n"),
        ("html", '<p class="x">One<br />two</p> &mdash; <!-- no -->three', "\n\nOne\ntwo\n\n — three"),
        ("title_block", "# Title: A\n\n## Author: B\n\n## Year: 1902\n\n-------\n\nText", "\nText"),
        ("credits", "Produced by A. Reader and\nothers\n\n\nTITLE", "\n\n\nTITLE"),
        ("credits", "Transcribed from the 1864 Chapman edition by David Price\n\nTITLE", "\n\nTITLE"),
        ("credits", "E-text prepared by Juliet Sutherland\n\nTITLE", "\n\nTITLE"),
        ("credits", f"A.\n\n{NOTE_BOX}\n\nB.", "A.\n\n\n\nB."),
        ("credits", "A [Transcriber's note: the page is torn.] B", "A  B"),
        ("credits", f"{FILLER}\n\nTRANSCRIBER'S NOTES:\n\nPage 3: teh changed to the.", f"{FILLER}\n\n"),
        ("credits", f"Transcriber's Note\n\nSpelling was kept.\n\n\n\nTITLE\n\n{FILLER}", f"\n\n\n\nTITLE\n\n{FILLER}"),
        ("illustrations", "A\n\n[Illustration: A horse\nand [sic] a man]\n\nB [Illustration]", "A\n\n\n\nB "),
        (
            "footnotes",
            "he said[1] so.\n\n[1] In French.\n\nNext [2] and [Footnote 3: so\nlong] on.",
            "he said so.\n\nNext [2] and  on.",
        ),
        ("footnotes", "trout. {6}  The\n\n{6}  An editor put this in.\n\nThe {7} end", "trout. {6}  The\n\nThe {7} end"),
        ("page_marks", "one [Pg 12] two {13} three [Page 4]", "one  two  three "),
        ("emphasis", "_him_ and _him_self, 2_l._ *so* **very** =bold= ~wide~", "him and himself, 2l. so very bold wide"),
        ("emphasis", "_over a\nline's end_", "over a\nline's end"),
        ("headings", "# I\n\nText # no\n## II", "I\n\nText # no\nII"),
        ("tables", f"A\n\n{TABLE}\n\nB", "A\n\n\n\nB"),
        ("tables", "+----------+\n|  TO LET  |\n|  a house |\n+----------+", "TO LET\na house"),
        (
            "contents",
            "T\n\nCONTENTS\n\nI. A Start 3\n\nII. An End 9\n\n\n\nA START\n\nIt began.",
            "T\n\n\n\n\n\nA START\n\nIt began.",
        ),
        ("contents", "One......... 1\nTwo ........ 12\nThree . . . . . xii\n\nText", "\n\nText"),
        ("scene_breaks", "A\n\n   *       *    *\n\nB\n ***\n----------\nC\n\n* * *\n", "A\n\n* * *\n\nB\n* * *\nC\n\n\n"),
        ("scene_breaks", "A\n" + "-" * 72 + "\nB", "A\n\nB"),
    ],
)
def test_it_does_what_it_says(rule: str, text: str, wanted: str) -> None:
    done = RULES[rule].apply(text)
    assert done.text == wanted
    assert done.strikes >= 1
    assert done.places


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("gutenberg", "He read of the end of Project Gutenberg in a sentence.\n"),
        ("html", "if a <b and c> d, 3 < 4, <sighs>, &mdash; alone"),
        ("title_block", "Title: one line alone\n\nText"),
        ("smashwords", "All rights reserved.\n\n###\n\nAbout the author: http://example.org"),
        ("credits", "There was a spasm\nproduced by an endeavor to laugh.\n\nThe play was produced by Mr. Daly.\n"),
        ("credits", f"{FILLER}\n\nThe transcriber's note lay on the desk.\n\n{FILLER}"),
        ("illustrations", "an illustration [and more] of [Illustrious] men"),
        ("footnotes", "the year [1] was\n\n[2] A list's item.\n\n[sic] him[self] and I[t]"),
        ("page_marks", "{y} {1234567} [Part 2] [12] page 3"),
        ("emphasis", "snake_case_name, ____, _ alone, 2 * 3 * 4, a = b = c, * * *, word* and note*, _open\n\nclosed_"),
        ("headings", "#hashtag\nNo # 3"),
        ("tables", "a | b\n\nc | d\n\n|x|"),
        ("contents", "CONTENTS\n\n" + "\n\n".join(f"The {n}th day was bright and cold, and he went out." for n in range(90))),
        ("contents", "She had no contents.\n\nThe contents\nof the box"),
        ("scene_breaks", "**\n\n--\n\na * * * b"),
    ],
)
def test_it_leaves_alone_what_is_none_of_its_business(rule: str, text: str) -> None:
    done = RULES[rule].apply(text)
    assert done.text == text
    assert done.strikes == 0


def test_a_smashwords_book_loses_its_licence_and_its_links() -> None:
    done = RULES["smashwords"].apply(f"{LICENCE}{FILLER}{END}")
    assert done.text.split() == f"Night Train By Ann Author Chapter One The train left. {FILLER} She smiled.".split()
    assert done.strikes == 5


def test_a_break_inside_a_smashwords_book_is_no_end() -> None:
    text = f"{LICENCE}{FILLER}\n\n###\n\nThe next day he woke up and went on.\n\nThe end"
    assert "The next day he woke up" in after("smashwords", text)


def test_contents_with_parts_and_chapters_of_the_same_name_go_whole() -> None:
    chapters = "\n".join(f"CHAPTER {n}" for n in ("I", "II", "III"))
    book = f"TITLE\n\nCONTENTS\n\nBOOK I\n\n{chapters}\n\nBOOK II\n\n{chapters}\n\n\n\n\nBOOK I\n\nCHAPTER I\n\n"
    prose = (
        "It was a bright cold day in April, and the clocks were\nstriking thirteen as he came home to the old house on the\nsea."
    )
    assert after("contents", book + prose) == "TITLE\n\n\n\n\n\n\nBOOK I\n\nCHAPTER I\n\n" + prose


BOOK = f"\nIt began.\n\n{FILLER[:3000]}\n\nIt ended.\n\n"
SMALL_PRINT = (
    "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN EBOOKS**START***\nPlease read.\n"
    "*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n"
)


@pytest.mark.parametrize("begin", [
    "*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***\n",
    "***START OF THIS PROJECT GUTENBERG ETEXT A TALE***\n",
    "*** START OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK, A TALE ***\n",
    "*** START OF THE PROJECT GUTENBERG EBOOK A VERY LONG TALE,\nIN TWO LINES ***\n",
    "*** START OF THE PROJEKT GUTENBERG-DE EBOOK\n",
    SMALL_PRINT,
    SMALL_PRINT.replace("*END THE", "*END*THE").replace("EBOOKS", "ETEXTS"),
    SMALL_PRINT + "*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***\n",
    "*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***\n" + SMALL_PRINT,
])  # fmt: skip
@pytest.mark.parametrize("end", [
    "*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***\n\nLicence.",
    "End of the Project Gutenberg EBook of A Tale\n*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***\n",
    "End of Project Gutenberg's A Tale, by A Writer\n",
    "***END OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK A TALE***\nLicence.\n",
    "End of The Project Gutenberg Etext of A Tale\n\n" + SMALL_PRINT,
    "Ende dieses Projekt Gutenberg Etextes\n",
    "",
])  # fmt: skip
def test_gutenbergs_markers_in_their_order(begin: str, end: str) -> None:
    done = RULES["gutenberg"].apply(f"Project Gutenberg's A Tale, by A Writer\n\n{begin}{BOOK}{end}")
    assert done.text == BOOK
    assert done.strikes == (2 if end else 1)


def test_a_small_print_at_the_end_without_any_other_footer() -> None:
    begin = "*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***\n"
    assert after("gutenberg", f"{begin}{BOOK}{SMALL_PRINT}") == BOOK


@pytest.mark.parametrize("case", ["pg_small_print_at_end", "pg_copyrighted"])
def test_gutenberg_books_that_were_lost(case: str, shared: Path) -> None:
    tale = (shared / "review" / "cases" / case / "tale.txt").read_text(encoding="utf-8")
    left = after("gutenberg", tale)
    assert len(left.strip()) == 6_469
    assert left.strip().startswith("Paragraph 1 of a short tale")
    assert "Gutenberg" not in left


def test_a_border_is_what_the_slow_pattern_said() -> None:
    slow = re.compile(r"\s*\+(?:[-=+]|[ \t]*\+){4,}\s*")
    for length in range(8):
        for signs in itertools.product("+-= x", repeat=length):
            line = "".join(signs)
            assert bool(BORDER.fullmatch(line)) == bool(slow.fullmatch(line)), line
