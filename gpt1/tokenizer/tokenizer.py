"""Text to ids and back (docs/explanation/tokenization.md)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt1.tokenizer.bpe import END, Merges
from gpt1.tokenizer.normalize import NEWLINE
from gpt1.tokenizer.pretokenizer import Codes, WordCodes
from gpt1.tokenizer.vocabulary import UNKNOWN, Vocabulary, vocabulary_files


class Encoded(NamedTuple):
    """`ids` (uint16, or uint32 for a vocabulary beyond 65,534), the number of words (line breaks
    are none) and of unknown pieces.
    """

    ids: Codes
    words: int
    unknown: int


class Tokenizer:
    """Ids of texts under one vocabulary.

    Chunks already met are looked up; at most a million are kept (about 150 MB).

        >>> tokenizer = gpt1.Tokenizer.from_pretrained("hf://openai-community/openai-gpt")
        >>> tokenizer.encode("The n't... very positive, negative.")
        [481, 538, 749, 963, 6353, 240, 9503, 239]
    """

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Tokenizer:
        """The tokenizer of a vocabulary: of a folder with its two files (as published, of a
        checkpoint, or of the vocabulary stage), or of `hf://owner/name`.

        UserError names what is missing or damaged.
        """
        return cls(Vocabulary.read(*vocabulary_files(str(source))))

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._merges = Merges(vocabulary.merges, vocabulary.ids)
        # Two codes beyond the ids: an unknown piece that ends a word, and WordCodes's mark.
        self._unknown_end, mark = vocabulary.size, vocabulary.size + 1
        newline = vocabulary.ids[NEWLINE + END]
        dtype = np.uint16 if mark <= np.iinfo(np.uint16).max else np.uint32
        self._codes = WordCodes(self._code_word, newline, mark, dtype)
        ends = [token.endswith(END) and token != NEWLINE + END for token in vocabulary.tokens]
        self._ends = np.array([*ends, True])

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; a piece that is not in the vocabulary is 0."""
        return self.encode_array(text).ids.tolist()

    def encode_array(self, text: str) -> Encoded:
        """The ids of `text` as an array, with the numbers of words and of unknown pieces: the
        fast form, for shards.
        """
        codes = self._codes.encode(text)
        counts = np.bincount(codes, minlength=len(self._ends))
        unknown = int(counts[UNKNOWN] + counts[self._unknown_end])
        if counts[self._unknown_end]:
            codes[codes == self._unknown_end] = UNKNOWN
        return Encoded(codes, int(counts[self._ends].sum()), unknown)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`: words separated by spaces, line breaks without spaces around them.

        Lower case and the spaces of `standardize` stay: encoding loses what they replaced.
        ValueError for an id outside the vocabulary.
        """
        return self.vocabulary.decode(ids)

    def _code_word(self, word: str) -> list[int]:
        size = self.vocabulary.size
        found = self._merges.pieces(word)
        codes = [piece if 0 <= piece < size else UNKNOWN for piece in found]
        if not 0 <= found[-1] < size:
            codes[-1] = self._unknown_end
        return codes
