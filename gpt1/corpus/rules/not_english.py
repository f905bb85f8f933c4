"""Books that are not in English."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from gpt1.corpus.rules.function_words import ENGLISH, OTHERS
from gpt1.corpus.rules.rule import BookRule

_WORD = re.compile(r"[^\W\d_]+")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")
_LETTER = re.compile(r"[^\W\d_]")
_STRETCHES, _LENGTH = 25, 1_200
_FEWEST_WORDS = 50
_LATIN_SHARE = 0.8


@dataclass(frozen=True)
class Language:
    """What a text's words say.

    Shares of the words looked at; `other` names the language that has the second highest.
    """

    words: int
    english: float
    other: str
    other_share: float
    latin: float
    """The share of Latin letters among the letters."""


def measure(text: str) -> Language:
    """Shares of function words in at most 25 stretches of 1,200 characters, spread evenly over
    the text.
    """
    sample = spread(text)
    words = Counter(_WORD.findall(sample.lower()))
    number = max(1, words.total())
    shares = {language: _count(words, some) / number for language, some in OTHERS.items()}
    other = max(sorted(shares), key=lambda language: shares[language])
    latin = len(_LATIN.findall(sample)) / max(1, len(_LETTER.findall(sample)))
    return Language(words.total(), _count(words, ENGLISH) / number, other, shares[other], latin)


def _count(words: Counter[str], some: frozenset[str]) -> int:
    return sum(words[word] for word in some)


def spread(text: str) -> str:
    """A whole short text, or stretches of a long one."""
    if len(text) <= _STRETCHES * _LENGTH:
        return text
    step = len(text) // _STRETCHES
    return "\n".join(text[start : start + _LENGTH] for start in range(0, step * _STRETCHES, step))


def judge(text: str, threshold: float) -> str | None:
    """Not English: too few English function words, or more of another language's, or too few Latin
    letters.

    A text of fewer than 50 words is not judged.
    """
    found = measure(text)
    if found.latin < _LATIN_SHARE and len(_LETTER.findall(spread(text))) >= 4 * _FEWEST_WORDS:
        return f"{found.latin:.0%} of the letters are Latin; at least {_LATIN_SHARE:.0%} wanted"
    if found.words < _FEWEST_WORDS:
        return None
    said = (
        f"{found.english:.1%} of the words are English function words, {found.other_share:.1%} are"
        f" {found.other} ones"
    )
    if found.english < threshold:
        return f"{said}; at least {threshold:.0%} English wanted"
    if found.other_share > found.english:
        return f"{said}; more English ones wanted"
    return None


RULE = BookRule(
    "not_english",
    "Reject a book with a smaller share of English function words, or with more of another"
    " language's; 0 keeps all.",
    "english", 0.25, judge, {"ge": 0, "le": 1}, sentences=True,
)  # fmt: skip
