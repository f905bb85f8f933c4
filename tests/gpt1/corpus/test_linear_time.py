"""No text makes a rule slow: twice the size costs about twice the time, on one long line and on hostile repeats."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from gpt1.corpus.rules.registry import BOOK_RULES, TEXT_RULES
from gpt1.corpus.size import Size

# Each is repeated to the size wanted. What opens and never closes, what nearly matches, and long runs.
HOSTILE = {
    "one line": "the old man and the sea went on for ever ",
    "opened brackets": "[Illustration: [Footnote 1: [Transcriber's Note: ",
    "signs": "_a *b =c ~d ",
    "underscores": "_",
    "stars": "*",
    "star rows": "\n* * * * *",
    "dash rows": "\n-----\n",
    "bars": "|",
    "bar lines": "| a | b |\n",
    "borders": "+-+-+-+-+-\n",
    "plus signs": f"a | b\n{'+' * 60} x\n",
    "small print": "***START**THE SMALL PRINT\n*END THE SMALL PRINT\nEnd of Project Gutenberg\n",
    "tags": "<p class=<b <!-- ",
    "open tags": "<style>",
    "entities": "&amp;<",
    "full stops": ".",
    "stops and spaces": ". . . ",
    "blank lines": "\n \n",
    "spaces": " ",
    "carriage returns": "\r",
    "words per line": "word\n",
    "dotted": "One ..... 12\n",
    "marks": "a[1] [1]\n\n[1] b\n\n{2} {2}\n\n",
    "headers": "*** START OF THE PROJECT GUTENBERG EBOOK\n",
    "headings": "\n# a\nCONTENTS\n\n",
    "smashwords": "Smashwords Edition\n\n###\n\n",
    "credits": "\n\nProduced by A\n\nTranscriber's Note\n",
}
SMALL = 100_000
GENEROUS = 2.6  # for twice the size; a quadratic rule needs four times as long
TOO_SHORT_TO_TELL = 0.05


def seconds(work: Callable[[str], object], text: str) -> float:
    """Processor time of one call."""
    began = time.process_time()
    work(text)
    return time.process_time() - began


def is_linear(work: Callable[[str], object], unit: str) -> bool:
    """Whether twice the text costs about twice the time; at once where it costs next to nothing."""
    text = unit * (SMALL // len(unit))
    if seconds(work, text + text) < TOO_SHORT_TO_TELL:
        return True
    # Measured again where a busy machine may have been the reason.
    return any(seconds(work, text + text) < GENEROUS * seconds(work, text) for _ in range(4))


RULES: dict[str, Callable[[str], object]] = {**{rule.name: rule.apply for rule in TEXT_RULES}, "size": Size.of}
RULES |= {rule.name: (lambda text, rule=rule: rule.judge(text, rule.default)) for rule in BOOK_RULES}


@pytest.mark.parametrize("rule", sorted(RULES.keys() - {"ftfy"}))
def test_twice_the_text_takes_about_twice_the_time(rule: str) -> None:
    assert [name for name, unit in HOSTILE.items() if not is_linear(RULES[rule], unit)] == []


@pytest.mark.parametrize("rule", sorted(RULES.keys() - {"ftfy"}))
def test_five_megabytes_on_one_line(rule: str) -> None:
    one_line = HOSTILE["one line"] * (5_000_000 // len(HOSTILE["one line"]))
    RULES[rule](one_line)
