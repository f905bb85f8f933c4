"""No text makes a rule slow: eight times the text costs at most twelve times the calls, and what
happens inside one call of a regular expression ends soon.

The texts are 10 and 80 kB of one unit, repeated: what opens and never closes, nearly matches, or is
long; and the words of every pattern of the rules, as they stand in the patterns.
"""

import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from gpt1.corpus import clean
from gpt1.corpus.clean import BOOK_RULES, TEXT_RULES
from gpt1.corpus.rules import boilerplate, markup, rule

HOSTILE = [
    "the old man and the sea went on for ever ",
    "[Illustration: [Footnote 1: [Transcriber's Note: ",
    "_a *b =c ~d ", "_", "*", "|", ".", "\n* * * * *", "\n-----\n", "| a | b |\n", "+-+-+-+-+-\n",
    f"a | b\n{'+' * 60} x\n", "[", "{", "(", "#", "\n# ", "\u00ad\n", "\u200b", "\t\n", "\n\n\n",
    "***START**THE SMALL PRINT\n*END THE SMALL PRINT\nEnd of Project Gutenberg\n",
    "***START**THE SMALL PRINT!\nwords\n*END*THE SMALL PRINT!\n",
    "*** START OF THE PROJECT GUTENBERG EBOOK\n", "*** END OF THE PROJECT GUTENBERG EBOOK\nword\n",
    "*** START OF\n", "End of Project Gutenberg's\n", "<p class=<b <!-- ", "<style>", "&amp;<",
    "a[1] [1]\n\n[1] b\n\n{2} {2}\n\n", ". . . ", "\n \n", "\r", " ", "One ..... 12\n", "word\n",
    "Smashwords Edition\n\n###\n\n", "\n# a\nCONTENTS\n\n", "CONTENTS\n", "a. 1\n\n\nb. 2\n\n\n",
    "\n\nProduced by A\n\nTranscriber's Note\n", "Title: \n", "Project Gutenberg Australia\n\n",
]  # fmt: skip
SMALL, LARGE = 10_000, 80_000
MOST_CALLS, FEW_CALLS = 1.5 * LARGE / SMALL, 200
PATIENCE = 5.0
"""Processor seconds for one text of 80 kB. It takes milliseconds, and where the cost is its square,
more than a minute.
"""

RULES: dict[str, Callable[[str], object]] = {rule.name: rule.apply for rule in TEXT_RULES}
RULES |= {rule.name: lambda text, rule=rule: rule.judge(text, rule.default) for rule in BOOK_RULES}
RULES |= {"size": rule.Size.of, "shuffle": rule.shuffle_sentences}


def mentioned() -> Iterator[str]:
    """The words and signs of each pattern, in a line of their own and one after another."""
    for module in (boilerplate, clean, markup, rule):
        for pattern in (one for one in vars(module).values() if isinstance(one, re.Pattern)):
            signs = r"\\[a-zA-Z]|\{\d+,?\d*\}|\(\?[^|()]{1,3}|[\\^$?()|]"
            words = " ".join(re.sub(signs, " ", pattern.pattern).split())
            yield from (f"{words}\n", f"\n\n{words[:60]}", f"{words[:20]} ")


@contextmanager
def patience() -> Iterator[None]:
    """TimeoutError after PATIENCE seconds of the processor, inside a regular expression too."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def calls(apply: Callable[[str], object], text: str) -> int:
    """How many functions a rule calls, those of C too."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    with patience():
        sys.setprofile(note)
        try:
            apply(text)
        finally:
            sys.setprofile(None)
    return count


@pytest.mark.parametrize("name", sorted(RULES.keys() - {"ftfy"}))
def test_no_text_costs_its_square(name: str) -> None:
    for unit in (*HOSTILE, *mentioned()):
        texts = (unit * (size // len(unit)) for size in (SMALL, LARGE))
        few, many = (calls(RULES[name], text) for text in texts)
        assert many <= MOST_CALLS * few + FEW_CALLS, (unit, few, many)


def test_one_line_of_four_megabytes_ends() -> None:
    with patience():
        for name in RULES.keys() - {"ftfy"}:
            RULES[name](HOSTILE[0] * 100_000)
