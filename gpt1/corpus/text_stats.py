"""How large a text is: words, sentences, bytes. Each measure is stated here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
# Quantities are bounded: a run of a million full stops must not be scanned a million times.
_SENTENCE_END = re.compile(
    r"""[.!?…](?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)[.!?…"'”’)\]_*]{0,8}\s{1,9}(?=["'“‘(\[_*]{0,3}[A-Z0-9])"""
)


@dataclass(frozen=True)
class Size:
    """A size, or the difference of two."""

    words: int = 0
    sentences: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, text: str) -> Size:
        """Words between white space; bytes of UTF-8; sentences.

        Sentences: a paragraph (between blank lines) ends one, and so does a run of `. ! ? …` with
        any closing quotes, followed by white space and a capital letter or a digit with any opening
        quotes; not after Mr., Mrs., Dr. and St.
        """
        paragraphs = (part for part in BLANK_LINE.split(text) if part and not part.isspace())
        sentences = sum(1 + len(_SENTENCE_END.findall(part)) for part in paragraphs)
        return cls(len(text.split()), sentences, len(text.encode("utf-8", "surrogatepass")))

    def __add__(self, other: Size) -> Size:
        return Size(
            self.words + other.words, self.sentences + other.sentences, self.bytes + other.bytes
        )

    def __sub__(self, other: Size) -> Size:
        return Size(
            self.words - other.words, self.sentences - other.sentences, self.bytes - other.bytes
        )

    def dict(self) -> dict[str, int]:
        """{"words", "sentences", "bytes"}."""
        return vars(self).copy()


NONE = Size()


def sentences(text: str) -> Iterator[str]:
    """The sentences of `Size.of`, in order."""
    for paragraph in BLANK_LINE.split(text):
        if paragraph and not paragraph.isspace():
            yield from _SENTENCE_END.split(paragraph)
