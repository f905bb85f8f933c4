"""Each rule on what it was made for, and on what it must leave alone."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from gpt1.corpus.rules import garbled, not_english
from gpt1.corpus.rules.registry import TEXT_RULES
from tests.gpt1.real_books import embedded

RULES = {rule.name: rule for rule in TEXT_RULES}
LINE = "It was a bright cold day in April, and the clocks were striking."
FILLER = "\n\n".join([LINE] * 400)
GUTENBERG = """The Project Gutenberg EBook of X

*** START OF THIS PROJECT GUTENBERG EBOOK X ***

It began.

It ended.

End of the Project Gutenberg EBook of X

Licence."""
TITLE, AUTHOR = "Night Train\n\nBy Ann Author\n\n", "Chapter One\n\nThe train left.\n\n"
SMASHED = f"""{TITLE}Published by Ann Author at Smashwords

Copyright 2011 Ann Author

Smashwords Edition, License Notes

This ebook is licensed for your personal enjoyment only. This ebook may not be re-sold. If you \
would like to share it, please purchase an additional copy. Thank you for respecting the author.

{AUTHOR}{FILLER}

"""
LEFT = TITLE + "\n" * 8 + f"{AUTHOR}{FILLER}\n\n"
END = """She smiled.

###

About the author:
Ann lives by the sea.

Connect with me online:
http://twitter.com/ann
"""
BREAK = "###\n\nThe next day he woke up and went on.\n\nThe end"
BOX = "+------------+\n| Transcriber's Note: |\n| Spelling kept. |\n+------------+"
TABLE = "| No. | Symbols |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"
CHAPTERS = "\n".join(f"CHAPTER {number}" for number in ("I", "II", "III"))
PARTS = f"TITLE\n\nCONTENTS\n\nBOOK I\n\n{CHAPTERS}\n\nBOOK II\n\n{CHAPTERS}"
FIRST = f"\n\n\n\n\nBOOK I\n\nCHAPTER I\n\n{LINE}\n{LINE}\n{LINE}"
DAYS = "\n\n".join(f"The {n}th day was bright and cold, and he went out." for n in range(90))
PROSE = """It was a matchless morning in rural England, and upon a fair
hill there stood a majestic pile, the ivied walls and towers of
the castle, huge relic and witness of the baronial grandeur of a"""
VERSE = "    The wine is bright, the wine is bright;\n    And gay the drinkers be:\n    Of all"
JOINED, STRIPPED = PROSE.replace("\n", " "), VERSE.replace("    ", "")
HYPHEN = "as a dark-haired young man who was red-\nskinned bent low toward her and whispered"
MARKED = (
    "Thou art mine, Agnes, for ever and so long  \nI am thine for all the days to come  \nto both"
)
UNMARKED = MARKED.replace("  \n", "\n")
WRAPPED = "\n\n".join([PROSE] * 12)
PADDED = WRAPPED.replace("\n", "  \n").replace("  \n  \n", "\n\n")
UNWRAPPED = "\n\n".join([*[JOINED] * 40, *[MARKED] * 12])
LONG_LINES = "\n".join(" ".join(["word"] * 100) for _ in range(40))

CASES: list[tuple[str, str, str, int]] = [
    ("line_ends", "a\r\nb\rc\r\r\nd", "a\nb\nc\nd", 3),
    ("ftfy", "“quoted” caf\u00c3\u00a9 &lt;", '"quoted" café <', 1),
    ("gutenberg", GUTENBERG, "\nIt began.\n\nIt ended.\n\n", 2),
    ("html", '<p class="x">One<br />two</p> &mdash; <!-- -->three', "\n\nOne\ntwo\n\n — three", 5),
    ("title_block", "# Title: A\n\n## Author: B\n\n## Year: 1902\n\n-------\n\nText", "\nText", 1),
    ("smashwords", f"{SMASHED}{END}", f"{LEFT}She smiled.\n\n", 5),
    ("smashwords", f"{SMASHED}{BREAK}", f"{LEFT}{BREAK}", 4),
    ("credits", "Produced by A. Reader and\nothers\n\n\nTITLE", "\n\n\nTITLE", 1),
    ("credits", "Transcribed from the 1864 edition by D. Price\n\nTITLE", "\n\nTITLE", 1),
    ("credits", "E-text prepared by Juliet Sutherland\n\nTITLE", "\n\nTITLE", 1),
    ("credits", f"A.\n\n{BOX}\n\nB.", "A.\n\n\n\nB.", 1),
    ("credits", "A [Transcriber's note: the page is torn.] B", "A  B", 1),
    ("credits", f"{FILLER}\n\nTRANSCRIBER'S NOTES:\n\nPage 3: teh changed.", f"{FILLER}\n\n", 1),
    ("credits", f"Transcriber's Note\n\nKept.\n\n\n\nT\n\n{FILLER}", f"\n\n\n\nT\n\n{FILLER}", 1),
    ("credits", f"Transcriber's Note\n\nKept.\n\nT\n\n{FILLER}", f"T\n\n{FILLER}", 1),
    ("illustrations", "A\n\n[Illustration: A\n[sic] man]\n\nB [Illustration]", "A\n\n\n\nB ", 2),
    ("footnotes", "he said[1] so.\n\n[1] In French.\n\nNext [2] and [Footnote 3: so\nlong] on.",
     "he said so.\n\nNext [2] and  on.", 3),
    ("footnotes", "trout. {6}  The\n\n{6}  An editor put this in.\n\nThe {7} end",
     "trout. {6}  The\n\nThe {7} end", 1),
    ("page_marks", "one [Pg 12] two {13} three [Page 4]", "one  two  three ", 3),
    ("emphasis", "_him_ and _him_self, 2_l._ *so* **very** =bold= ~wide~",
     "him and himself, 2l. so very bold wide", 7),
    ("emphasis", "_over a\nline's end_", "over a\nline's end", 1),
    ("headings", "# I\n\nText # no\n## II", "I\n\nText # no\nII", 2),
    ("tables", f"A\n\n{TABLE}\n\nB", "A\n\n\n\nB", 1),
    ("tables", "+----------+\n|  TO LET  |\n|  a house |\n+----------+", "TO LET\na house", 1),
    ("contents", "T\n\nCONTENTS\n\nI. A Start 3\n\nII. An End 9\n\n\n\nA START\n\nIt began.",
     "T\n\n\n\n\n\nA START\n\nIt began.", 1),
    ("contents", "One......... 1\nTwo ........ 12\nThree . . . . . xii\n\nText", "\n\nText", 1),
    ("contents", PARTS + FIRST, f"TITLE\n\n{FIRST}", 1),
    ("scene_breaks", "A\n\n   *       *    *\n\nB\n ***\n----------\nC\n\n* * *\n",
     "A\n\n* * *\n\nB\n* * *\nC\n\n\n", 3),
    ("scene_breaks", f"A\n{'-' * 72}\nB", "A\n\nB", 1),
    ("join_lines", f"{WRAPPED}\n\n{VERSE}", "\n\n".join([*[JOINED] * 12, STRIPPED.strip()]), 24),
    ("join_lines", "\n\n".join([HYPHEN] * 25), "\n\n".join([HYPHEN.replace("\n", "")] * 25), 25),
    ("join_lines", f"{WRAPPED}\n\n{MARKED}", "\n\n".join([*[JOINED] * 12, UNMARKED]), 24),
    ("join_lines", UNWRAPPED, UNWRAPPED.replace("  \n", "\n"), 0),
    ("join_lines", PADDED, "\n\n".join([JOINED] * 12), 24),
]  # fmt: skip
UNTOUCHED = [
    ("gutenberg", "He read of the end of Project Gutenberg in a sentence.\n"),
    ("html", "if a <b and c> d, 3 < 4, <sighs>, &mdash; alone"),
    ("title_block", "Title: one line alone\n\nText"),
    ("smashwords", "All rights reserved.\n\n###\n\nAbout the author: http://example.org"),
    ("credits", "There was a spasm\nproduced by an effort.\n\nIt was produced by Mr. Daly.\n"),
    ("credits", f"{FILLER}\n\nThe transcriber's note lay on the desk.\n\n{FILLER}"),
    ("illustrations", "an illustration [and more] of [Illustrious] men"),
    ("footnotes", "the year [1] was\n\n[2] A list's item.\n\n[sic] him[self] and I[t]"),
    ("page_marks", "{y} {1234567} [Part 2] [12] page 3"),
    ("emphasis", "snake_case_name, ____, _ alone, 2 * 3 * 4, a = b = c, * * *, _open\n\nclosed_"),
    ("headings", "#hashtag\nNo # 3"), ("tables", "a | b\n\nc | d\n\n|x|"),
    ("contents", f"CONTENTS\n\n{DAYS}"),
    ("contents", "She had no contents.\n\nThe contents\nof the box"),
    ("scene_breaks", "**\n\n--\n\na * * * b"), ("join_lines", LONG_LINES),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "before", "after", "count"),
    [*CASES, *((rule, text, text, 0) for rule, text in UNTOUCHED)],
)
def test_each_rule_does_what_it_says_and_no_more(
    rule: str, before: str, after: str, count: int
) -> None:
    done = RULES[rule].apply(before)
    assert done.text == after
    assert (done.strikes, bool(done.places)) == (count, count > 0)


BOOK = f"\nIt began.\n\n{FILLER[:3000]}\n\nIt ended.\n\n"
SMALL_PRINT = (
    "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN EBOOKS**START***\nPlease read.\n"
    "*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n"
)
START = "*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***\n"


@pytest.mark.parametrize("begin", [
    START, START + SMALL_PRINT, SMALL_PRINT, SMALL_PRINT + START,
    SMALL_PRINT.replace("*END THE", "*END*THE").replace("EBOOKS", "ETEXTS"),
    "***START OF THIS PROJECT GUTENBERG ETEXT A TALE***\n",
    "*** START OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK, A TALE ***\n",
    "*** START OF THE PROJECT GUTENBERG EBOOK A VERY LONG TALE,\nIN TWO LINES ***\n",
    "*** START OF THE PROJEKT GUTENBERG-DE EBOOK\n",
])  # fmt: skip
@pytest.mark.parametrize("end", [
    "*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***\n\nLicence.",
    "End of the Project Gutenberg EBook of A Tale\n*** END OF THE PROJECT GUTENBERG EBOOK ***\n",
    "End of Project Gutenberg's A Tale, by A Writer\n",
    "***END OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK A TALE***\nLicence.\n",
    "End of The Project Gutenberg Etext of A Tale\n\n" + SMALL_PRINT,
    "Ende dieses Projekt Gutenberg Etextes\n", "",
])  # fmt: skip
def test_gutenbergs_markers_in_their_order(begin: str, end: str) -> None:
    head = f"Project Gutenberg's A Tale, by A Writer\n\n{begin}"
    done = RULES["gutenberg"].apply(f"{head}{BOOK}{end}")
    assert (done.text, done.strikes) == (BOOK, 2 if end else 1)


def test_a_small_print_at_the_end_without_any_other_footer() -> None:
    assert RULES["gutenberg"].apply(f"{START}{BOOK}{SMALL_PRINT}").text == BOOK


@pytest.mark.parametrize("case", ["pg_small_print_at_end", "pg_copyrighted"])
def test_gutenberg_books_that_were_lost(case: str, shared: Path) -> None:
    tale = (shared / "review" / "cases" / case / "tale.txt").read_text(encoding="utf-8")
    left = RULES["gutenberg"].apply(tale).text
    assert len(left.strip()) == 6_469
    assert left.strip().startswith("Paragraph 1 of a short tale")
    assert "Gutenberg" not in left


_LANGUAGES = (
    "cs", "da", "de", "es", "fi", "fr", "hu", "it", "nl", "pl", "pt", "sv", "ru", "el", "ja",
)


def english(text: str) -> str | None:
    return not_english.judge(text, not_english.RULE.default)


OLD_ENGLISH = (
    "shakespeare", "homer", "brontes", "pauline", "sotu",
    *(f"problem{letter}" for letter in "DEFH"),
)


# French, Latin, Dutch, Old Serbian; and Shakespeare, old letters, sermons, verse, speech.
@pytest.mark.parametrize(
    ("folder", "foreign"),
    [*((f"problem{letter}", True) for letter in "IJKLM"), *((name, False) for name in OLD_ENGLISH)],
)
def test_other_languages_are_no_english_and_old_verse_and_speech_are(
    folder: str, foreign: bool
) -> None:
    found = [english(text) is not None for text in embedded(folder, "windows-1252")]
    assert set(found) == {foreign}


@pytest.mark.parametrize("language", _LANGUAGES)
def test_sentences_of_other_languages_are_no_english(language: str) -> None:
    examples = importlib.import_module(f"spacy.lang.{language}.examples").sentences
    assert english(" ".join(examples * 10))


def test_a_few_words_of_another_language_and_few_words_reject_no_book() -> None:
    ours = (
        "The old man said that he would go to the sea, and that they should not follow him there. "
    )
    french = (
        "Il a dit que la vie est belle, et que les hommes ne sont pas tous mauvais dans le monde. "
    )
    assert english(ours * 60 + french * 30) is None
    assert "French" in (english(ours * 20 + french * 80) or "")
    assert english("Smith Jones Brown Taylor Wilson Davies " * 40)
    assert english("Smith Jones") is None


@pytest.mark.parametrize(
    "text",
    [
        "| 12 | 34.5 | --- | 17 % |\n" * 100, "<td>;</td>{0}[];" * 200,
        "text \ufffd\ufffd of \x01 bits \x92\n" * 100, "a b c d e f g h " * 200,
        "Donaudampfschifffahrtsgesellschaftskapitaen " * 60,
    ],
)
def test_garbled_text_is_found(text: str) -> None:
    assert garbled.judge(text, True)


def test_prose_verse_and_short_texts_are_not_garbled() -> None:
    for folder in ("shakespeare", "homer", "problemF"):
        assert not any(garbled.judge(text, True) for text in embedded(folder, "windows-1252"))
    assert garbled.judge("--- 12 ---", True) is None
