"""Each rule on what it was made for, and on what it must leave alone."""

import importlib
import unicodedata

import pytest

from gpt1.corpus.clean import BOOK_RULES, TEXT_RULES
from tests.gpt1.real_books import embedded

RULES = {rule.name: rule for rule in TEXT_RULES}
JUDGES = {rule.name: rule for rule in BOOK_RULES}
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
LONG_LINE_IN_VERSE = """The sun goes down,
The moon is up and all the stars are in the sky of May,
And on the town
The night lies deep"""
JOINED, STRIPPED = PROSE.replace("\n", " "), VERSE.replace("    ", "")
HYPHEN = "as a dark-haired young man who was red-\nskinned bent low toward her and whispered"
UNMARKED = "Thou art mine, Agnes, for ever and so long\nI am thine for all the days to be\nto both"
MARKED = UNMARKED.replace("\n", "  \n")
WRAPPED = "\n\n".join([PROSE] * 12)
PADDED = WRAPPED.replace("\n", "  \n").replace("  \n  \n", "\n\n")
UNWRAPPED = "\n\n".join([*[JOINED] * 40, *[MARKED] * 12])
MOTTOES = "\n\n".join([*[JOINED] * 40, *[PROSE] * 12])
LONG_LINES = "\n".join(" ".join(["word"] * 100) for _ in range(40))

CASES: list[tuple[str, str, str, int]] = [
    ("line_ends", "a\r\nb\rc\r\r\nd", "a\nb\nc\nd", 3),
    ("ftfy", "“quoted” caf\u00c3\u00a9 &lt;", '"quoted" café <', 1),
    ("invisible",
     "co\u00adop, ta\u00ad\n  ble a\u200bb\u2060c \ufeff\u200e\u202aд\u202c x\u00ad\n\ny",
     "coop, table abc д x\n\ny", 9),
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
    ("illustrations", "A\n\n[Illustration: never closed\n\nB [1]", "A\n\n\n\nB [1]", 1),
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
    ("join_lines", f"{WRAPPED}\n\n{LONG_LINE_IN_VERSE}",
     "\n\n".join([*[JOINED] * 12, LONG_LINE_IN_VERSE]), 24),
    ("join_lines", UNWRAPPED, UNWRAPPED.replace("  \n", "\n"), 0),
    ("join_lines", PADDED, "\n\n".join([JOINED] * 12), 24),
]  # fmt: skip
UNTOUCHED = [
    *(("gutenberg", text) for text in (
        "He read of the end of Project Gutenberg in a sentence.\n",
        f"{LINE}\n\nEnd of Project Gutenberg was the title of the talk.\n\n{LINE}",
        f"He said:\n\n  *** START OF the project was in May\n\n{LINE}",
        f"{LINE}\n\nEnd of the Project Gutenberg Etext that he read.\n\n{FILLER}",
        f"A page of Project Gutenberg Australia lay there.\n\n{LINE}",
        f"{LINE}\n\n{' ' * 500}End of the Project Gutenberg Etext\n\n{FILLER}",
    )),
    ("html", "if a <b and c> d, 3 < 4, <sighs>, &mdash; alone"),
    ("title_block", "Title: one line alone\n\nText"),
    ("invisible", "naïve\u00a0café — “x” \u3000 y"),
    ("smashwords", "All rights reserved.\n\n###\n\nAbout the author: http://example.org"),
    ("credits", "There was a spasm\nproduced by an effort.\n\nIt was produced by Mr. Daly.\n"),
    ("credits", f"{FILLER}\n\nThe transcriber's note lay on the desk.\n\n{FILLER}"),
    ("illustrations", "an illustration [and more] of [Illustrious] men"),
    ("footnotes", "the year [1] was\n\n[2] A list's item.\n\n[sic] him[self] and I[t]"),
    ("page_marks", "{y} {1234567} [Part 2] [12] page 3"),
    ("emphasis", "snake_case_name, ____, _ alone, 2 * 3 * 4, a = b = c, * * *, _open\n\nclosed_"),
    ("headings", "#hashtag\nNo # 3"), ("tables", "a | b\n\nc | d\n\n|x|"),
    ("contents", f"CONTENTS\n\n{DAYS}"),
    ("scene_breaks", "**\n\n--\n\na * * * b"), ("join_lines", LONG_LINES), ("join_lines", MOTTOES),
]  # fmt: skip


@pytest.mark.parametrize("case", [*CASES, *((rule, text, text, 0) for rule, text in UNTOUCHED)])
def test_each_rule_does_what_it_says_and_no_more(case: tuple[str, str, str, int]) -> None:
    rule, before, after, count = case
    done = RULES[rule].apply(before)
    assert (done.text, done.strikes, bool(done.places)) == (after, count, count > 0)


def test_credits_across_the_end_of_the_head_go_complete() -> None:
    credits = "\nProduced by A. Reader and\nothers"
    for begin in (29_970, 29_990, 29_999, 30_000):
        head = "x" * (begin - 1) + "\n"
        done = RULES["credits"].apply(f"{head}{credits}\n\nTITLE\n\n{FILLER}").text
        assert done == f"{head}{credits if begin == 30_000 else ''}\n\nTITLE\n\n{FILLER}"


BOOK = f"\nIt began.\n\n{FILLER[:3000]}\n\nIt ended.\n\n"
OTHER = BOOK.replace("It", "Another")
LICENSE = "\n".join(["Licence words of the Literary Archive Foundation."] * 300)
SMALL_PRINT = """***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN EBOOKS**START***\nPlease read.
*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n"""
START = "*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***\n"
END = "*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***\n"
HEAD = "Project Gutenberg's A Tale, by A Writer\n\n"
BEGINS = [
    START, START + SMALL_PRINT, SMALL_PRINT, SMALL_PRINT + START,
    SMALL_PRINT.replace("*END THE", "*END*THE").replace("EBOOKS", "ETEXTS"),
    "***START OF THIS PROJECT GUTENBERG ETEXT A TALE***\n",
    "*** START OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK, A VERY LONG TALE,\nIN TWO LINES ***\n",
    "*** START OF THE PROJEKT GUTENBERG-DE EBOOK\n",
    "*** START OF THIS PROJECT\nGUTENBERG EBOOK A TALE ***\n",
    "*** DÉBUT DU PROJET GUTENBERG EBOOK CONTE ***\n", "*** Beginn des Projekt Gutenberg ***\n",
    "Beginning of this Project Gutenberg Etext of A Tale\n",
    "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN\nETEXTS*Ver.04.29.93*END*\n",
    '["Small Print" V.12.08.93]\n',
]
ENDS = [
    f"{END}\nLicence.", f"{END}\n{LICENSE}", "",
    "End of the Project Gutenberg EBook of A Tale\n*** END OF THE PROJECT GUTENBERG EBOOK ***\n",
    "End of Project Gutenberg's A Tale, by A Writer\n",
    f"End of this Project Gutenberg Etext\n{LICENSE}",
    "***END OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK A TALE***\nLicence.\n",
    "*** END OF THIS PROJECT\nGUTENBERG EBOOK A TALE ***\n",
    "End of The Project Gutenberg Etext of A Tale\n\n" + SMALL_PRINT, SMALL_PRINT,
    f"{END}Donations.\n{SMALL_PRINT}This file should be named tale10.txt.\n",
    f"*** START: FULL LICENSE ***\n\n{LICENSE}", f"THE FULL PROJECT GUTENBERG LICENSE\n{LICENSE}",
    "**This is a COPYRIGHTED Project Gutenberg Etext, Details Above**\n",
    f"End of The Project Gutenberg Etext of A Tale, by Burroughs\n \nPAGE  CHANGED\n{DAYS}",
    "Ende dieses Projekt Gutenberg Etextes\n", "Fin de Project Gutenberg Etext\n",
]


@pytest.mark.parametrize("begin", BEGINS)
@pytest.mark.parametrize("end", ENDS)
def test_gutenbergs_markers_in_their_order(begin: str, end: str) -> None:
    done = RULES["gutenberg"].apply(f"{HEAD}{begin}{BOOK}{end}")
    assert (done.text, done.strikes, done.note) == (BOOK, 2 if end else 1, None)


@pytest.mark.parametrize("begin", BEGINS[:4])
@pytest.mark.parametrize("end", [end for end in ENDS if end])
def test_two_books_of_gutenberg_in_one_file(begin: str, end: str) -> None:
    one, two = f"{HEAD}{begin}{BOOK}{end}\n\n", f"{HEAD}{begin}{OTHER}{end}"
    done = RULES["gutenberg"].apply(one + two)
    if begin in BEGINS[:2] or end != SMALL_PRINT:  # without START OF it is a header's or a footer's
        assert (done.text, done.note) == (BOOK + OTHER, None)


def test_a_small_print_long_after_start_of_ends_the_header() -> None:
    header = f"{HEAD}{START}{'Please send your donations. ' * 150}\n{SMALL_PRINT}"
    assert RULES["gutenberg"].apply(f"{header}{BOOK * 3}{END}").text == BOOK * 3


def test_markers_out_of_order_are_left_and_said() -> None:
    apply = RULES["gutenberg"].apply
    for text in (f"{HEAD}{BOOK}{START}", f"{HEAD}{START}\n\n{END}{LICENSE}"):
        assert apply(text).note
        assert apply(text).text == text
    done = apply(f"{HEAD}{START}{BOOK * 12}{SMALL_PRINT}{BOOK * 12}{END}")
    assert done.text == f"{BOOK * 12}{SMALL_PRINT}{BOOK * 12}"
    assert done.note == "1 markers out of order are left"


@pytest.mark.parametrize("page", [
    """Project Gutenberg Australia\n\nTitle: A Tale\n\n* A Project Gutenberg of Australia eBook *
eBook No.:  0100021.txt\n\nCopyright laws are changing all over the world.\n
To contact Project Gutenberg of Australia go to http://gutenberg.net.au""",
    """* A Project Gutenberg Canada Ebook *\n\nThis ebook is made available at no cost.\n
Title: A Tale\n\nProject Gutenberg Canada ebook #12\n\nThis ebook was produced by: A. Reader""",
])  # fmt: skip
def test_the_pages_of_the_sister_projects(page: str) -> None:
    for end in ("[End of A Tale, by A Writer]\n", "More at Project Gutenberg Australia\n"):
        done = RULES["gutenberg"].apply(f"{page}\n{BOOK}{end}")
        assert (done.text.strip(), done.strikes) == (BOOK.strip(), 2)


def test_every_format_character_is_invisible() -> None:
    """But for the signs of Arabic, Syriac, Egyptian and Kaithi script that are seen."""
    codes = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Cf"]
    kept = {one for one in codes if RULES["invisible"].apply(f"a{one}b").text != "ab"}
    assert {ord(one) >> 8 for one in kept} <= {0x06, 0x07, 0x08, 0x110, 0x134}


def english(text: str) -> str | None:
    return JUDGES["not_english"].judge(text, 0.25)


def garbled(text: str) -> str | None:
    return JUDGES["garbled"].judge(text, True)


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
    assert garbled(text)


def test_prose_verse_and_short_texts_are_not_garbled() -> None:
    for folder in ("shakespeare", "homer", "problemF"):
        assert not any(garbled(text) for text in embedded(folder, "windows-1252"))
    assert garbled("--- 12 ---") is None
