"""Text to words: ftfy, standardise, spaCy's English tokenizer, lower case (SPEC section 2)."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

from gpt1.text.normalise import fix, standardise
from gpt1.text.without_torch import torch_left_out

NEWLINE = "\n"
_CACHED_CHUNKS = 100_000
_STRINGS_CEILING = 2_000_000


class WordTokenizer:
    """spaCy's rules, with the words as 64-bit keys so that a caller can keep a dictionary over them.

    spaCy remembers every string it has seen; beyond a ceiling the tokenizer is made anew, which changes no result.
    """

    def __init__(self) -> None:
        with torch_left_out():
            import spacy
            from spacy.attrs import ORTH
        self._blank = spacy.blank
        self._orth = ORTH
        self._renew()

    def _renew(self) -> None:
        # Only the rules and exceptions matter; `blank` has those of the trained English pipelines.
        nlp = self._blank("en")
        tokenizer: Any = nlp.tokenizer
        tokenizer.max_cache_size = _CACHED_CHUNKS
        self._tokenizer = tokenizer
        self._strings = nlp.vocab.strings

    def keys(self, text: str) -> list[int]:
        """The hash of each token of `text`, in order. `word` gives the word of a key of the latest call."""
        if len(self._strings) > _STRINGS_CEILING:
            self._renew()
        # The tokenizer itself is called, not the pipeline: it takes whole books, the pipeline stops at a million characters.
        return self._tokenizer(standardise(fix(text))).to_array(self._orth).tolist()

    def word(self, key: int) -> str:
        """The lower-cased word. A newline token, which spaCy returns as newline + space, is a newline."""
        word: str = self._strings[key].lower()
        return NEWLINE if word == "\n " else word


@cache
def word_tokenizer() -> WordTokenizer:
    """This process's tokenizer (about 0.3 s to make)."""
    return WordTokenizer()


def words(text: str) -> list[str]:
    """The words of `text`, lower-cased; a line break is the word `\\n`."""
    tokenizer = word_tokenizer()
    return [tokenizer.word(key) for key in tokenizer.keys(text)]


def count_words(text: str) -> Counter[str]:
    """How often each word occurs in `text`; line breaks are no words."""
    tokenizer = word_tokenizer()
    counts: Counter[str] = Counter()
    for key, number in Counter(tokenizer.keys(text)).items():
        counts[tokenizer.word(key)] += number
    counts.pop(NEWLINE, None)
    return counts
