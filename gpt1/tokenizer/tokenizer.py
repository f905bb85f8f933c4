"""Text to ids and back.

Most of the way from text to ids is a pure function of one chunk (docs/explanation/tokenization.md):
fixed text is cut at white space, a dictionary gives the ids of each chunk as bytes, and the bytes
are joined. What the dictionary lacks is worked out for a text at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from gpt1.tokenizer.bpe import END, pieces
from gpt1.tokenizer.normalize import NEWLINE, blocks, chunks, fix_text
from gpt1.tokenizer.pretokenizer import LONGEST_KEPT, ChunkWords, chunk_words, remember, stretches
from gpt1.tokenizer.vocabulary import UNKNOWN, Vocabulary

_CEILING = 1_000_000

Codes = np.ndarray[Any, np.dtype[Any]]


class Encoded(NamedTuple):
    """`ids` (uint16, or uint32 for a vocabulary beyond 65,533), the number of words (line breaks
    are none) and of unknown pieces.
    """

    ids: Codes
    words: int
    unknown: int


class _Known(dict[str, bytes]):
    """The codes of chunks as bytes.

    A chunk that is not there is noted, and a mark stands for it.
    """

    def __init__(self, mark: bytes) -> None:
        super().__init__()
        self.missed: list[str] = []
        self._mark = mark

    def __missing__(self, chunk: str) -> bytes:
        self.missed.append(chunk)
        return self._mark


class Tokenizer:
    """Ids of texts under one vocabulary.

    Chunks already met are looked up; at most a million are kept (about 150 MB).
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._ranks = {pair: rank for rank, pair in enumerate(vocabulary.merges)}
        # Three codes beyond the ids: an unknown piece that ends a word, a delicate chunk, a chunk
        # to be looked up.
        self._unknown_end, self._delicate, self._missing = range(
            vocabulary.size, vocabulary.size + 3
        )
        self._type: np.dtype[Any] = np.dtype(
            np.uint16 if self._missing <= np.iinfo(np.uint16).max else np.uint32
        )
        self._newline = vocabulary.ids[NEWLINE + END]
        ends = [token.endswith(END) and token != NEWLINE + END for token in vocabulary.tokens]
        self._ends = np.array([*ends, True, False, False])
        self._separators = {"": b"", NEWLINE: self._bytes([self._newline])}
        self._known = _Known(self._bytes([self._missing]))
        self._known.update(self._separators)
        self._stretches: dict[str, bytes] = {}
        self._delicate_stretches: set[str] = set()
        self._long: list[str] = []
        self._words: dict[str, bytes] = {}
        self._chunk_words: ChunkWords | None = None

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; a piece that is not in the vocabulary is 0."""
        return self.encode_array(text).ids.tolist()

    def encode_array(self, text: str) -> Encoded:
        """The ids of `text` as an array, with the numbers of words and of unknown pieces: the
        fast form, for shards.
        """
        cut = list(blocks(fix_text(text)))
        looked_up = [self._look_up(block) for block in cut]
        new = self._learn(list(dict.fromkeys(chunk for _, missed in looked_up for chunk in missed)))
        parts = [
            self._codes(block, *found, new) for block, found in zip(cut, looked_up, strict=True)
        ]
        codes = np.concatenate(parts) if parts else np.empty(0, self._type)
        codes = self._line_breaks(codes)
        counts = np.bincount(codes, minlength=len(self._ends))
        unknown = int(counts[UNKNOWN] + counts[self._unknown_end])
        if counts[self._unknown_end]:
            codes[codes == self._unknown_end] = UNKNOWN
        return Encoded(codes, int(counts[self._ends].sum()), unknown)

    def encode_word(self, word: str) -> list[int]:
        """The ids of one lower-cased word."""
        return [UNKNOWN if code == self._unknown_end else code for code in self._cut(word)]

    def _look_up(self, block: str) -> tuple[bytes, list[str]]:
        """The codes of whole lines, a line break for each `\\n`, as bytes; and the chunks that
        were missed.
        """
        missed = self._known.missed = []
        return b"".join(map(self._known.__getitem__, chunks(block))), missed

    def _codes(self, block: str, joined: bytes, missed: list[str], new: dict[str, bytes]) -> Codes:
        """The block's codes, with the missed chunks and the lines of delicate ones filled in."""
        codes = np.frombuffer(joined, self._type)
        if missed:
            codes = self._fill(codes, joined, missed, new)
        delicate = np.flatnonzero(codes == self._delicate)
        return self._whole_lines(codes, delicate, block) if len(delicate) else codes

    def _fill(self, codes: Codes, joined: bytes, missed: list[str], new: dict[str, bytes]) -> Codes:
        width = self._type.itemsize
        parts: list[bytes] = []
        done = 0
        for chunk, at in zip(
            missed, (np.flatnonzero(codes == self._missing) * width).tolist(), strict=True
        ):
            parts += (joined[done:at], new[chunk])
            done = at + width
        parts.append(joined[done:])
        return np.frombuffer(b"".join(parts), self._type)

    def _learn(self, missed: list[str]) -> dict[str, bytes]:
        """The codes of chunks, from those of their stretches; most of these were met in other
        chunks.
        """
        if not missed:
            return {}
        cut = stretches(missed)
        self._learn_stretches(set(chain.from_iterable(cut)))
        codes, delicate, mark = (
            self._stretches, self._delicate_stretches, self._bytes([self._delicate]),
        )
        new = {
            chunk: b"".join([codes[part] for part in parts]) if delicate.isdisjoint(parts) else mark
            for chunk, parts in zip(missed, cut, strict=True)
        }
        remember(self._known, new, _CEILING)
        self._known.update(self._separators)
        return new

    def _learn_stretches(self, wanted: set[str]) -> None:
        """Let `_stretches` hold all of `wanted`; beyond the ceiling the others are forgotten,
        and long ones at the next call.
        """
        for stretch in self._long:
            del self._stretches[stretch]
        if len(self._stretches) + len(wanted) > _CEILING:
            self._stretches.clear()
            self._delicate_stretches.clear()
        new = wanted.difference(self._stretches)
        self._long = [stretch for stretch in new if len(stretch) > LONGEST_KEPT]
        for stretch, words in self._tokenizer().of_stretches(new).items():
            if words is None:
                self._delicate_stretches.add(stretch)
            self._stretches[stretch] = self._join(words or ())

    def _whole_lines(self, codes: Codes, delicate: Codes, block: str) -> Codes:
        """The block with the lines of delicate chunks encoded as wholes."""
        lines = block.split(NEWLINE)
        breaks = np.flatnonzero(codes == self._newline)
        parts: list[Codes] = []
        done = 0
        for line in np.unique(np.searchsorted(breaks, delicate)).tolist():
            start = int(breaks[line - 1]) + 1 if line else 0
            words = self._tokenizer().of_line(lines[line])
            parts += (codes[done:start], np.frombuffer(self._join(words), self._type))
            done = int(breaks[line]) if line < len(breaks) else len(codes)
        return np.concatenate([*parts, codes[done:]])

    def _line_breaks(self, codes: Codes) -> Codes:
        """Several line breaks are one, and none leads or trails. The result is the caller's own."""
        is_break = codes == self._newline
        doubled = is_break.copy()
        doubled[1:] &= is_break[:-1]
        kept = codes[~doubled]
        return kept[:-1] if len(kept) and kept[-1] == self._newline else kept

    def _join(self, words: Sequence[str]) -> bytes:
        known = self._words
        return b"".join([known.get(word) or self._learn_word(word) for word in words])

    def _learn_word(self, word: str) -> bytes:
        # As bytes, not lists: Python's garbage collector does not walk over them.
        codes = self._bytes(self._cut(word))
        if len(self._words) >= _CEILING:
            self._words.clear()
        if len(word) <= LONGEST_KEPT:
            self._words[word] = codes
        return codes

    def _cut(self, word: str) -> list[int]:
        ids = self.vocabulary.ids
        found = pieces(word, self._ranks)
        codes = [ids.get(piece, UNKNOWN) for piece in found]
        if found[-1] not in ids:
            codes[-1] = self._unknown_end
        return codes

    def _bytes(self, codes: Sequence[int]) -> bytes:
        return array(self._type.char, codes).tobytes()

    def _tokenizer(self) -> ChunkWords:
        # Made only when it is needed: it loads spaCy.
        self._chunk_words = self._chunk_words or chunk_words()
        return self._chunk_words

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, as Vocabulary.decode gives it."""
        return self.vocabulary.decode(ids)
