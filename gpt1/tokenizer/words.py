"""Text to words: ftfy, standardize, spaCy's English tokenizer, lower case
(docs/explanation/tokenization.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain

from gpt1.tokenizer.normalize import NEWLINE, blocks, chunks, fix_text
from gpt1.tokenizer.pretokenizer import Words, chunk_words, remember

_CEILING = 300_000
# The words of this process's chunks; a delicate one has None (see chunk_words).
_known: dict[str, Words | None] = {}


def words(text: str) -> list[str]:
    """The words of `text`, lower-cased; a line break is the word `\\n`."""
    found: list[str] = []
    for block in blocks(fix_text(text)):
        lines = [[chunk for chunk in chunks(line) if chunk] for line in block.split(NEWLINE)]
        known = _words_of(set(chain.from_iterable(lines)))
        for line in filter(None, lines):
            if found:
                found.append(NEWLINE)
            parts = [known[chunk] for chunk in line]
            found += (
                chunk_words().of_line(" ".join(line))
                if None in parts
                else chain.from_iterable(filter(None, parts))
            )
    return found


def count_words(text: str) -> Counter[str]:
    """How often each word occurs in `text`; line breaks are no words.

    Chunks are counted, and each different one is cut once.
    """
    fixed = fix_text(text)
    seen: Counter[str] = Counter()
    for block in blocks(fixed):
        seen.update(chunks(block))
    del seen[""], seen[NEWLINE]
    known = _words_of(seen)
    counts: Counter[str] = Counter()
    for chunk, number in seen.items():
        for word in known[chunk] or ():
            counts[word] += number
    delicate = {chunk for chunk in seen if known[chunk] is None}
    return _with_whole_lines(counts, fixed, delicate, known) if delicate else counts


def _words_of(wanted: Iterable[str]) -> dict[str, Words | None]:
    new = [chunk for chunk in wanted if chunk not in _known]
    found = dict(zip(new, chunk_words().of_chunks(new), strict=True))
    found |= {chunk: _known[chunk] for chunk in wanted if chunk not in found}
    remember(_known, {chunk: found[chunk] for chunk in new}, _CEILING)
    return found


def _with_whole_lines(
    counts: Counter[str], fixed: str, delicate: set[str], known: dict[str, Words | None]
) -> Counter[str]:
    """`counts` with the lines that hold a delicate chunk counted anew, as wholes."""
    for block in blocks(fixed):
        if delicate.isdisjoint(chunks(block)):
            continue
        for line in block.split(NEWLINE):
            found = chunks(line)
            if delicate.isdisjoint(found):
                continue
            counts.subtract(chain.from_iterable(known[chunk] or () for chunk in found if chunk))
            counts.update(chunk_words().of_line(line))
    return +counts
