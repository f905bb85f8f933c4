"""Copies of a book as they occur: other line breaks, quotes, spelling, a missing chapter."""

import random
import re
import textwrap
from collections.abc import Callable

Plant = Callable[[str, random.Random], str]

_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_LICENCE = """This book is given to you free of charge by the readers of our village. \
Please do not sell it, tell a friend of it. """


def other_line_breaks(text: str, draw: random.Random) -> str:
    """Every paragraph wrapped to another width, Windows line ends."""
    width, parts = draw.randrange(45, 65), [part.split() for part in _PARAGRAPH.split(text)]
    return "\r\n\r\n".join("\r\n".join(textwrap.wrap(" ".join(part), width)) for part in parts)


def other_quotes(text: str, draw: random.Random) -> str:
    """Quotes curled or made straight; double dashes made long; underscores of emphasis added."""
    text = text.translate(str.maketrans("'\"’‘“”", "’”'''\"")).replace("--", "—")
    words = text.split(" ")
    for at in draw.sample(range(len(words)), len(words) // 200):
        words[at] = f"_{words[at]}_"
    return " ".join(words)


def missing_chapter(text: str, draw: random.Random) -> str:
    """A tenth of the paragraphs gone, in one piece."""
    paragraphs = _PARAGRAPH.split(text)
    gone = len(paragraphs) // 10
    start = draw.randrange(len(paragraphs) - gone)
    return "\n\n".join(paragraphs[:start] + paragraphs[start + gone :])


def other_spelling(text: str, draw: random.Random) -> str:
    """One word in a hundred spelled otherwise."""
    return _respelled(text, draw, 0.01)


def poor_scan(text: str, draw: random.Random) -> str:
    """One word in twenty misread."""
    return _respelled(text, draw, 0.05)


def licence_around(text: str, draw: random.Random) -> str:
    """A header and a footer of some 500 words each."""
    header, footer = (_LICENCE * draw.randrange(18, 25) for _ in range(2))
    return f"{header}\n\n{text}\n\n{footer.upper()}"


def first_volume(text: str, draw: random.Random) -> str:
    """The first half alone, or a little less or more."""
    paragraphs = _PARAGRAPH.split(text)
    return "\n\n".join(paragraphs[: int(len(paragraphs) * draw.uniform(0.4, 0.6))])


_CHANGES = (other_line_breaks, other_quotes, missing_chapter, other_spelling, poor_scan)
_PLANTS: tuple[Plant, ...] = (*_CHANGES, licence_around, first_volume)
KINDS = {plant.__name__: plant for plant in _PLANTS}
EXACT = ("other_line_breaks", "other_quotes")
"""The kinds that change no word."""


def _respelled(text: str, draw: random.Random, share: float) -> str:
    def change(word: re.Match[str]) -> str:
        found = word.group()
        if draw.random() >= share:
            return found
        at = draw.randrange(len(found))
        return f"{found[:at]}{draw.choice('aeioulmnrst')}{found[at:]}"

    return re.sub(r"[A-Za-z]+", change, text)
