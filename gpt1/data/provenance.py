"""From an id back to the text it came from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gpt1.data.shards import DocumentSpan
from gpt1.errors import UserError
from gpt1.tokenizer.bpe import END
from gpt1.tokenizer.normalize import fix_text, standardize
from gpt1.tokenizer.vocabulary import NEWLINE_TOKEN, UNKNOWN_TOKEN

_CHUNK = re.compile(r"\S+")
_TRIES = 6


@dataclass(frozen=True)
class TextSpan:
    """Where an id lies in a text: the characters `start` to `end`.

    `exact`: the ids up to there were found again in the text up to there. Where ftfy or standardize
    changed the chunk of the id, the whole chunk is given.
    """

    start: int
    end: int
    exact: bool

    def around(self, text: str, width: int, mark: tuple[str, str] = ("⟦", "⟧")) -> str:
        """The passage in its text, marked, with `width` characters on either side."""
        before = text[max(0, self.start - width) : self.start]
        after = text[self.end : self.end + width]
        return f"{before}{mark[0]}{text[self.start : self.end]}{mark[1]}{after}"


def book_at(spans: Sequence[DocumentSpan], offset: int, name: str) -> tuple[DocumentSpan, int]:
    """The book that holds the id at `offset` of a shard or a set whose books these are, in their
    order in books.parquet, and its index in that book.

    UserError, which calls them `name`, for an offset outside.
    """
    left = offset
    for span in spans:
        if 0 <= left < span.length:
            return span, left
        left -= span.length
    total = sum(span.length for span in spans)
    raise UserError(f"{name}: offset {offset} is out of range; expected 0 to {total - 1}.")


def locate(
    text: str, ids: Sequence[int], index: int, encode: Callable[[str], Sequence[int]],
    tokens: Sequence[str], length: int = 1,
) -> TextSpan:
    """Where in `text` the `length` ids from `ids[index]` come from; `ids` are the whole text's.

    Looks for the first white-space-separated chunk up to which the text has more than `index` ids,
    encoding from the start of the text, since ftfy looks at a text as a whole.
    """
    chunks = [(found.start(), found.end()) for found in _CHUNK.finditer(text)]
    if not chunks:
        found = f"the text has {len(text)} characters, all white space"
        raise UserError(f"{found}; expected text of {len(ids)} tokens.")
    known = {-1: 0, len(chunks) - 1: len(ids)}

    def count(at: int) -> int:
        if at not in known:
            known[at] = len(encode(text[: chunks[at][1]]))
        return known[at]

    def place(index: int) -> TextSpan:
        at = _first_beyond(index, known, count)
        start, end = chunks[at]
        here = list(encode(text[:end]))
        exact = here[: index + 1] == list(ids[: index + 1])
        space = chunks[at - 1][1] if at else 0
        if tokens[ids[index]] == NEWLINE_TOKEN:
            return TextSpan(space, start, exact)
        before = here[count(at - 1) : index] if exact else []
        pieces = [tokens[number] for number in [*before, ids[index]]]
        within = _within(text[start:end], [piece for piece in pieces if piece != NEWLINE_TOKEN])
        first, last = within or (0, end - start)
        return TextSpan(start + first, start + last, exact)

    first, last = place(index), place(index + length - 1)
    return TextSpan(first.start, last.end, first.exact and last.exact)


def _first_beyond(index: int, known: Mapping[int, int], count: Callable[[int], int]) -> int:
    """The first chunk up to which there are more than `index` ids, between those whose counts are
    `known`; guesses in proportion first, then halves.
    """
    low = max(at for at, ids in known.items() if ids <= index)
    high = min(at for at, ids in known.items() if ids > index)
    tries = 0
    while high - low > 1:
        middle = (low + high) // 2
        if tries < _TRIES:
            share = (index + 0.5 - count(low)) / max(1, count(high) - count(low))
            middle = min(high - 1, max(low + 1, low + int(share * (high - low))))
        tries += 1
        low, high = (middle, high) if count(middle) <= index else (low, middle)
    return high


def _within(chunk: str, pieces: Sequence[str]) -> tuple[int, int] | None:
    """Where the last of `pieces` lies in their chunk; None where more than single characters
    were changed on the way to ids.
    """
    # A character may stand for several on that way (`…`, ligatures): the place of each character of
    # the result in the chunk.
    plain = [standardize(fix_text(character)).lower() for character in chunk]
    places = [place for place, text in enumerate(plain) for _ in text]
    result = "".join(plain)
    begin = end = 0
    for piece in pieces:
        wanted = piece.removesuffix(END)
        # Only single characters have no id: all that merges make has one.
        begin, end = end, end + (1 if piece == UNKNOWN_TOKEN else len(wanted))
        if end > len(result) or (piece != UNKNOWN_TOKEN and result[begin:end] != wanted):
            return None
    return places[begin], places[end - 1] + 1
