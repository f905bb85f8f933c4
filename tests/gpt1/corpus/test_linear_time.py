"""No text makes a rule slow: four times the text costs about four times the work, not sixteen."""

import time
from collections.abc import Callable

import pytest

from gpt1.corpus.rules.registry import BOOK_RULES, TEXT_RULES
from gpt1.corpus.text_stats import Size

# Each is repeated to the size wanted: what opens and never closes, nearly matches, or is long.
HOSTILE = {
    "one line": "the old man and the sea went on for ever ",
    "opened brackets": "[Illustration: [Footnote 1: [Transcriber's Note: ",
    "signs": "_a *b =c ~d ", "underscores": "_", "stars": "*", "bars": "|", "full stops": ".",
    "star rows": "\n* * * * *", "dash rows": "\n-----\n", "bar lines": "| a | b |\n",
    "borders": "+-+-+-+-+-\n", "plus signs": f"a | b\n{'+' * 60} x\n",
    "small print": "***START**THE SMALL PRINT\n*END THE SMALL PRINT\nEnd of Project Gutenberg\n",
    "headers": "*** START OF THE PROJECT GUTENBERG EBOOK\n", "tags": "<p class=<b <!-- ",
    "open tags": "<style>", "entities": "&amp;<", "marks": "a[1] [1]\n\n[1] b\n\n{2} {2}\n\n",
    "stops and spaces": ". . . ", "blank lines": "\n \n", "carriage returns": "\r", "spaces": " ",
    "dotted": "One ..... 12\n", "lines": "word\n", "smashwords": "Smashwords Edition\n\n###\n\n",
    "headings": "\n# a\nCONTENTS\n\n", "credits": "\n\nProduced by A\n\nTranscriber's Note\n",
}  # fmt: skip
# The smaller text; a factor between 4 and 16; processor seconds that are too few to compare.
SMALL, SQUARE, NOTHING = 50_000, 9, 0.05

RULES: dict[str, Callable[[str], object]] = {rule.name: rule.apply for rule in TEXT_RULES}
RULES |= {rule.name: lambda text, rule=rule: rule.judge(text, rule.default) for rule in BOOK_RULES}
RULES["size"] = Size.of


def work(rule: str, text: str) -> float:
    """Processor time of one call; growth is compared, never the time itself."""
    began = time.process_time()
    RULES[rule](text)
    return time.process_time() - began


def is_linear(rule: str, unit: str) -> bool:
    text = unit * (SMALL // len(unit))
    linear = (work(rule, text * 4) < SQUARE * work(rule, text) for _ in range(4))
    return work(rule, text * 4) < NOTHING or any(linear)


@pytest.mark.parametrize("rule", sorted(RULES.keys() - {"ftfy"}))
def test_no_text_costs_its_square(rule: str) -> None:
    assert [name for name, unit in HOSTILE.items() if not is_linear(rule, unit)] == []
    RULES[rule](HOSTILE["one line"] * 100_000)  # ends, though it is one line of four megabytes
