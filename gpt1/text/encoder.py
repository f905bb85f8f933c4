"""Text to ids and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gpt1.text.bpe import END, pieces
from gpt1.text.vocabulary import UNKNOWN, Vocabulary
from gpt1.text.words import NEWLINE, WordTokenizer, word_tokenizer

_CEILING = 500_000


class TextEncoder:
    """Ids of texts under one vocabulary. Words already met are looked up; the dictionary holds at most half a million."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._ranks = {pair: rank for rank, pair in enumerate(vocabulary.merges)}
        self._known: dict[int, list[int]] = {}
        self._tokenizer: WordTokenizer | None = None

    def encode(self, text: str) -> list[int]:
        """The ids of `text` by SPEC section 2; a piece that is not in the vocabulary is 0."""
        return self.encode_counted(text)[0]

    def encode_counted(self, text: str) -> tuple[list[int], int]:
        """The ids of `text`, and the number of its words (line breaks are none)."""
        # Made only here, so that decoding needs no spaCy.
        tokenizer = self._tokenizer = self._tokenizer or word_tokenizer()
        known = self._known
        newline = self.vocabulary.ids[NEWLINE + END]
        ids: list[int] = []
        breaks = 0
        keys = tokenizer.keys(text)
        for key in keys:
            found = known.get(key)
            if found is None:
                found = self._learn(key, tokenizer.word(key))
            if found[0] == newline:
                breaks += 1
            ids += found
        return ids, len(keys) - breaks

    def encode_word(self, word: str) -> list[int]:
        """The ids of one lower-cased word."""
        ids = self.vocabulary.ids
        return [ids.get(piece, UNKNOWN) for piece in pieces(word, self._ranks)]

    def _learn(self, key: int, word: str) -> list[int]:
        if len(self._known) >= _CEILING:
            self._known.clear()
        ids = self._known[key] = self.encode_word(word)
        return ids

    def decode(self, ids: Iterable[int] | Sequence[int]) -> str:
        """The text of `ids`: words separated by spaces, line breaks without spaces around them.

        Lower case and the spaces of standardise stay: encoding loses what they replaced. ValueError for an id outside.
        """
        tokens = self.vocabulary.tokens
        parts: list[str] = []
        for number in ids:
            if not 0 <= number < len(tokens):
                raise ValueError(f"id {number} is not in the vocabulary of {len(tokens)} tokens")
            parts.append(tokens[number])
        text = "".join(parts).replace(END, " ")
        return text.replace("\n ", "\n").replace(" \n", "\n").strip(" ")
