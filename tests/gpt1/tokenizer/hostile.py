"""Hostile text for the property tests: what the text steps treat specially, thrown together."""

import random
import sys
from collections.abc import Iterable

from hypothesis import strategies as st

SPACES = [character for character in map(chr, range(sys.maxunicode + 1)) if character.isspace()]
SNIPPETS = [
    *"abzAZ09.,:;!?'\"()[]{}<>&#@$%^*_-+=/\\|~`", *SPACES,
    *"‘’‚‛“”„‟—–―…´«»‹›•·†‡™€£¥§°½×²³®©",
    *"\xad\u200b\u200d\u200f\ufeff\ufffd\ufffc\x00\x1a\x1b\x7f\x80\x85\x9d",
    *"éèàçñöüßæøåÂÃÎÐØÙŒœĲŉſﬁﬀＡ　ʼāășžñĳ", *"ΣςσΟΔαβЖжגאية汉字한한İıǅẞ", "\u0301", "\u0327",
    "\u1100\u1161\u11a8", "\ud83d", "\ude00", "\ud83d\ude00", "😀", "👩‍👩‍👧", "🇩🇪", "\n", "\n\n",
    "\r\n", "\r", " ", "  ", "\x1b[31m", "...", "--", "'em", "'s", "n't", "goin", "'bout", ":x",
    "wed.", "Mr.", "U.S.A.", "sÃ©", "â€œ", "â€\x9d", "Ã ", "Â ", "à²", "вЂ™", "ГўВЂВ", "œuvre",
    "&amp;", "&lt;", "&eacute;", "&#x2019;", "&EACUTE;", "&nosuch;", "<b>", "</w>", "<unk>",
    "o'clock", "can't", "I'm", "gonna", "5pm", "10km", "10a.m.", ":-)", "<3", ">.<", "°C.", "''",
    "C++", "A$", "https://example.org/a?b=c&d=e", "me@example.org", "www.x.com", "1,000.50",
    "[[({x})]]", "e.g.", "Ph.D.", "x'y'z", "He's", "ΑΣ's",
]  # fmt: skip


def texts() -> st.SearchStrategy[str]:
    """Snippets in any order, and any code points, surrogates among them."""
    anything = st.text(st.characters(exclude_categories=()), max_size=3)
    return st.lists(st.one_of(st.sampled_from(SNIPPETS), anything), max_size=25).map("".join)


def random_texts(seed: int, number: int) -> list[str]:
    """Many texts fast, drawn from the snippets alone."""
    draw = random.Random(seed)
    return ["".join(draw.choices(SNIPPETS, k=draw.randint(1, 12))) for _ in range(number)]


def code_points(rare: int) -> list[int]:
    """All but of ideographs, syllables, private and higher planes, of which every `rare`-th."""
    common = [
        *range(0x3400), *range(0xA000, 0xAC00), *range(0xD7A0, 0xE010), *range(0xF8F0, 0x10000),
        *range(0x1F000, 0x20000),
    ]
    return sorted({*common, *range(0, sys.maxunicode + 1, rare)})


def sweep(codes: Iterable[int]) -> list[str]:
    """Each code point in several places, beside ASCII and beside others, 10,000 lines a text."""
    lines: list[str] = []
    for sign in map(chr, codes):
        lines.append(f"{sign}ab x{sign}y {sign} A{sign} 1{sign}. a{sign}")
        lines.append(f"{sign}é{sign}“{sign}”{sign}’{sign}{sign} —{sign}")
    return ["\n".join(lines[at : at + 10_000]) for at in range(0, len(lines), 10_000)]
