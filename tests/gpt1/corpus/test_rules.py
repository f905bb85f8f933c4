"""Each rule on what it was made for, and on what it must leave alone."""

import importlib

import pytest

from gpt1.corpus.rules import garbled, not_english
from gpt1.corpus.rules.registry import TEXT_RULES
from tests.gpt1.real_books import embedded

RULES = {rule.name: rule for rule in TEXT_RULES}
LINE = "It was a bright cold day in April, and the clocks were striking."
FILLER = "\n\n".join([LINE] * 400)
TITLE, AUTHOR = "Night Train\n\nBy Ann Author\n\n", "Chapter One\n\nThe train left.\n\n"
SMASHED = f"""{TITLE}Published by Ann Author at Smashwords\n\nCopyright 2011 Ann Author\n
Smashwords Edition, License Notes\n
This ebook is licensed for your personal enjoyment only. This ebook may not be re-sold. If you \
would like to share it, please purchase an additional copy. Thank you for respecting the author.\n
{AUTHOR}{FILLER}\n\n"""
LEFT = TITLE + "\n" * 8 + f"{AUTHOR}{FILLER}\n\n"
END = """She smiled.\n\n###\n\nAbout the author:\nAnn lives by the sea.\n
Connect with me online:\nhttp://twitter.com/ann\n"""
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
UNMARKED = "Thou art mine, Agnes, for ever and so long\nI am thine for all the days to be\nto both"
MARKED = UNMARKED.replace("\n", "  \n")
WRAPPED = "\n\n".join([PROSE] * 12)
PADDED = WRAPPED.replace("\n", "  \n").replace("  \n  \n", "\n\n")
UNWRAPPED = "\n\n".join([*[JOINED] * 40, *[MARKED] * 12])
LONG_LINES = "\n".join(" ".join(["word"] * 100) for _ in range(40))

CASES: list[tuple[str, str, str, int]] = [
    ("line_ends", "a\r\nb\rc\r\r\nd", "a\nb\nc\nd", 3),
    ("ftfy", "“quoted” caf\u00c3\u00a9 &lt;", '"quoted" café <', 1),
    ("html", '<p class="x">One<br />two</p> &mdash; <!-- -->three', "\n\nOne\ntwo\n\n — three", 5),
    ("title_block", "# Title: A\n\n## Author: B\n\n## Year: 1902\n\n-------\n\nText", "\nText", 1),
    ("smashwords", f"{SMASHED}{END}", f"{LEFT}She smiled.\n\n", 5),
    ("smashwords", f"{SMASHED}{BREAK}", f"{LEFT}{BREAK}", 4),
    ("credits", "Produced by A. Reader and\nothers\n\n\nTITLE", "\n\n\nTITLE", 1),
    ("credits", "Transcribed from the 1864 edition by D. Price\n\nTITLE", "\n\nTITLE", 1),
    ("credits", f"A.\n\n{BOX}\n\nB.", "A.\n\n\n\nB.", 1),
    ("credits", "A [Transcriber's note: the page is torn.] B", "A  B", 1),
    ("credits", f"{FILLER}\n\nTRANSCRIBER'S NOTES:\n\nPage 3: teh changed.", f"{FILLER}\n\n", 1),
    ("credits", f"Transcriber's Note\n\nKept.\n\n\n\nT\n\n{FILLER}", f"\n\n\n\nT\n\n{FILLER}", 1),
    ("illustrations", "A\n\n[Illustration: A\n[sic] man]\n\nB [Illustration]", "A\n\n\n\nB ", 2),
    ("footnotes", "he said[1] so.\n\n[1] In French.\n\nNext [2] and [Footnote 3: so\nlong] on.",
     "he said so.\n\nNext [2] and  on.", 3),
    ("footnotes", "trout. {6}  The\n\n{6}  An editor put this in.\n\nThe {7} end",
     "trout. {6}  The\n\nThe {7} end", 1),
    ("page_marks", "one [Pg 12] two {13} three [Page 4]", "one  two  three ", 3),
    ("emphasis", "_him_self, _over a\nline_, 2_l._ *so* **very** =bold= ~wide~",
     "himself, over a\nline, 2l. so very bold wide", 7),
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
    ("scene_breaks", "**\n\n--\n\na * * * b"), ("join_lines", LONG_LINES),
]  # fmt: skip


@pytest.mark.parametrize("case", [*CASES, *((rule, text, text, 0) for rule, text in UNTOUCHED)])
def test_each_rule_does_what_it_says_and_no_more(case: tuple[str, str, str, int]) -> None:
    rule, before, after, count = case
    done = RULES[rule].apply(before)
    assert (done.text, done.strikes, bool(done.places)) == (after, count, count > 0)


BOOK = f"\nIt began.\n\n{FILLER[:3000]}\n\nIt ended.\n\n"
SMALL_PRINT = """***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN EBOOKS**START***\nPlease read.
*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n"""
START = "*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***\n"


@pytest.mark.parametrize("begin", [
    START, START + SMALL_PRINT, SMALL_PRINT, SMALL_PRINT + START,
    SMALL_PRINT.replace("*END THE", "*END*THE").replace("EBOOKS", "ETEXTS"),
    "***START OF THIS PROJECT GUTENBERG ETEXT A TALE***\n",
    "*** START OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK, A VERY LONG TALE,\nIN TWO LINES ***\n",
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


def english(text: str) -> str | None:
    return not_english.judge(text, not_english.RULE.default)


# French, Latin, Dutch, Old Serbian; and Shakespeare, old letters, sermons, verse, speech.
FOREIGN = [f"problem{letter}" for letter in "IJKLM"]
OLD_ENGLISH = ["shakespeare", "homer", "brontes", "pauline", "sotu"]
OLD_ENGLISH += [f"problem{letter}" for letter in "DEFH"]


@pytest.mark.parametrize("folder", [*FOREIGN, *OLD_ENGLISH])
def test_other_languages_are_no_english_and_old_verse_and_speech_are(folder: str) -> None:
    found = {english(text) is not None for text in embedded(folder, "windows-1252")}
    assert found == {folder in FOREIGN}


def test_sentences_of_other_languages_are_no_english() -> None:
    for name in ("cs", "da", "de", "es", "fi", "hu", "it", "pl", "pt", "sv", "ru", "el", "ja"):
        examples = importlib.import_module(f"spacy.lang.{name}.examples").sentences
        assert english(" ".join(examples * 10)), name


def test_a_few_words_of_another_language_and_few_words_reject_no_book() -> None:
    ours = "The old man said that he would go to the sea, and that they should not follow him. "
    french = "Il a dit que la vie est belle, et que les hommes ne sont pas tous mauvais ici. "
    assert english(ours * 60 + french * 30) is None
    assert "French" in (english(ours * 20 + french * 80) or "")
    assert english("Smith Jones Brown Taylor Wilson Davies " * 40)
    assert english("Smith Jones") is None


@pytest.mark.parametrize("text", [
    "| 12 | 34.5 | --- | 17 % |\n" * 100, "text \ufffd\ufffd of \x01 bits \x92\n" * 100,
    "<td>;</td>{0}[];" * 200, "a b c d e f g h " * 200, "Donaudampfschifffahrtskapitaen " * 60,
])  # fmt: skip
def test_garbled_text_is_found(text: str) -> None:
    assert garbled.judge(text, True)


def test_prose_verse_and_short_texts_are_not_garbled() -> None:
    for folder in ("shakespeare", "homer", "problemF"):
        assert not any(garbled.judge(text, True) for text in embedded(folder, "windows-1252"))
    assert garbled.judge("--- 12 ---", True) is None
