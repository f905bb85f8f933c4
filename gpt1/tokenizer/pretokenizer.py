"""Fixed text to words: spaCy's English tokenizer and lower case, at the speed of a dictionary.

The words of a chunk (the text between white space) are those of its segments (`standardize` puts
spaces between them), and most do not depend on their neighbors. spaCy's tokenizer works on segments
in two passes. The first takes each segment for itself. The second looks for exceptions in the
tokens of the whole text, blind to white space: of those that overlap the longest wins, and one that
spans white space may win but changes nothing. So a neighbor can take one of the second pass's
changes from a segment, and can add none: `'bout:x` is `'bout` `:x`, but after `goin` it is `'`
`bout` `:x`, for `goin '` is an exception too. A segment that the second pass would not change when
it is alone, it changes nowhere. The others are context-dependent: 44 in 4.2 million chunks of
the first 20 MB of the shared books. Their lines are tokenized as a unit. A line break ends all such
dependence, its token is in no exception.
"""

from __future__ import annotations

import re
import sys
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.abc import MetaPathFinder
from typing import Any, TypeVar

import numpy as np

from gpt1.tokenizer.normalize import NEWLINE, blocks, fix_text, separate, split_chunks, standardize

Codes = np.ndarray[Any, np.dtype[Any]]
Words = tuple[str, ...]
Key = TypeVar("Key", str, bytes)
Value = TypeVar("Value")

# Longer keys are not remembered, so that ceilings on entries bound the memory.
_LONGEST_KEPT = 64
_CHUNKS, _SEGMENTS, _CACHED_BY_SPACY, _STRINGS = 1_000_000, 300_000, 100_000, 2_000_000
_BREAK = " \n "
_PLAIN = re.compile(r"('?)([A-Za-z]+)((?:'s)?)((?:(?<=[a-z])\.|:)?)('?)")


class Pretokenizer:
    """Lower-cased words of segments and of lines."""

    def __init__(self) -> None:
        with _without_torch():
            import spacy
            from spacy.attrs import ORTH
            from spacy.tokenizer import Tokenizer
        self._blank, self._kind, self._orth = spacy.blank, Tokenizer, ORTH
        self._renew()

    def _renew(self) -> None:
        # spaCy remembers every string it has seen. Only the rules and exceptions matter; `blank`
        # has those of the trained pipelines.
        nlp: Any = self._blank("en")
        # What else spaCy would work out for each new word (its shape, whether it is a number) is
        # used nowhere here.
        nlp.vocab.lex_attr_getters = {}
        nlp.tokenizer.max_cache_size = _CACHED_BY_SPACY
        self._tokenizer = nlp.tokenizer
        self._rules = nlp.tokenizer.rules
        self._first_pass = _first_pass(self._kind, nlp.tokenizer)
        self._exceptions = _second_pass_exceptions(
            _first_pass(self._kind, nlp.tokenizer, rules=False), self._rules, self._orth
        )
        self._longest = max(map(len, self._exceptions))
        self._strings = nlp.vocab.strings

    def words_of_line(self, line: str) -> list[str]:
        """The words of a fixed line, by both passes over the line."""
        return [token.lower() for token in self._lines([standardize(line)], self._tokenizer)[0]]

    def words_of_segments(self, segments: set[str]) -> dict[str, Words | None]:
        """The words of each segment; None for a context-dependent one."""
        found: dict[str, Words | None] = {}
        hard = []
        for segment in segments:
            tokens = self._plain_tokens(segment)
            if len(tokens) == 1:
                # No exception: that would be a rule.
                found[segment] = (segment.lower(),)
            elif tokens:
                found[segment] = self._words(tokens)
            else:
                hard.append(segment)
        for segment, tokens in zip(hard, self._lines(hard, self._first_pass), strict=True):
            found[segment] = self._words(tokens)
        if len(self._strings) > _STRINGS:
            self._renew()
        return found

    def _plain_tokens(self, segment: str) -> Sequence[str]:
        """The first pass's tokens of ASCII letters, perhaps after `'` and before `'s`, a full stop
        or colon, and `'`, in this order. Empty for everything else, which is left to spaCy.

        spaCy's other affixes, its infixes and its addresses all need something beside these. A
        full stop after a capital may belong to the word, and what is left without some of the
        affixes may be an exception.
        """
        if not (shape := _PLAIN.fullmatch(segment)):
            return ()
        rules = self._rules
        before, word, *after = shape.groups()
        rest = word
        if rest in rules or before + rest in rules:
            return ()
        for affix in after:
            rest += affix
            if affix and (rest in rules or before + rest in rules):
                return ()
        return [part for part in shape.groups() if part]

    def _words(self, tokens: Sequence[str]) -> Words | None:
        """The first pass's tokens of a segment in lower case; None where the second pass would
        change them if the segment stood alone.
        """
        places = (
            (start, end)
            for end in range(1, len(tokens) + 1)
            for start in range(max(0, end - self._longest), end)
        )
        if any(tuple(tokens[start:end]) in self._exceptions for start, end in places):
            return None
        return tuple([token.lower() for token in tokens])

    def _lines(self, lines: list[str], tokenizer: Any) -> list[list[str]]:
        """The tokens of standardized lines, each without a line break."""
        if not lines:
            return []
        # The tokenizer itself is called, not the pipeline: it takes whole books, the pipeline stops
        # at a million characters.
        keys = tokenizer(_BREAK.join(lines)).to_array(self._orth).tolist()
        strings = self._strings
        texts = {key: strings[key] for key in set(keys)}
        found: list[list[str]] = [[]]
        for key in keys:
            token = texts[key]
            if token == "\n ":
                found.append([])
            else:
                found[-1].append(token)
        return found


@cache
def pretokenizer() -> Pretokenizer:
    """This process's pretokenizer (about 0.5 s to make: it loads spaCy)."""
    return Pretokenizer()


class WordCodes:
    """Texts as the codes of their words: `code_word` gives those of one word, `newline` is the
    code of a line break, `mark` one that no word has; all are numbers of `dtype`.

    The codes of chunks are remembered up to a ceiling, which changes no result.
    """

    def __init__(
        self, code_word: Callable[[str], Sequence[int]], newline: int, mark: int, dtype: Any
    ) -> None:
        self._code_word = code_word
        self._newline, self._mark = newline, mark
        self._type: np.dtype[Any] = np.dtype(dtype)
        self._separators = {b"": b"", b"\n": self._bytes([newline])}
        # As bytes, not lists: Python's garbage collector does not walk over them.
        self._chunks: dict[bytes, bytes] = dict(self._separators)
        self._segments: dict[str, bytes] = {}
        self._words: dict[str, bytes] = {}

    def encode(self, text: str) -> Codes:
        """The codes (n,) of a text; several line breaks are one, and none leads or trails."""
        parts = [self._encode_block(block) for block in blocks(fix_text(text))]
        codes = np.concatenate(parts) if parts else np.empty(0, self._type)
        is_break = codes == self._newline
        doubled = is_break.copy()
        doubled[1:] &= is_break[:-1]
        kept = codes[~doubled]
        return kept[:-1] if len(kept) and kept[-1] == self._newline else kept

    def _encode_block(self, block: str) -> Codes:
        """The codes of complete lines, one of a line break for each `\\n`."""
        chunks, places = split_chunks(block)
        values: list[Any] = list(map(self._chunks.get, chunks))
        missed = [at for at, found in enumerate(values) if found is None]
        if missed:
            new = self._code_chunks([chunks[at] for at in missed])
            for at, found in zip(missed, new, strict=True):
                values[at] = found
            remember(self._chunks, {chunks[at]: values[at] for at in missed}, _CHUNKS)
            self._chunks |= self._separators
        codes = self._gather(values, places)
        marked = np.flatnonzero(codes == self._mark)
        return self._code_lines(codes, marked, block) if len(marked) else codes

    def _gather(self, values: Sequence[bytes], places: Codes | None) -> Codes:
        """The codes of the values in these places (n,), or of all, one after another."""
        joined = np.frombuffer(b"".join(values), self._type)
        if places is None:
            return joined
        lengths = np.fromiter(map(len, values), np.int64, len(values)) // self._type.itemsize
        starts = np.cumsum(lengths) - lengths
        counts = lengths[places]  # (n,)
        shifts = starts[places] - (np.cumsum(counts) - counts)
        return joined[np.arange(counts.sum()) + np.repeat(shifts, counts)]

    def _code_chunks(self, chunks: Sequence[bytes]) -> list[bytes]:
        """The codes of each chunk, with the mark for a context-dependent segment."""
        # A text for each chunk and no list: Python's garbage collector does not walk over texts.
        cut = separate([chunk.decode("utf-8", "surrogatepass") for chunk in chunks])
        known = self._segments
        met = set(" ".join(cut).split())
        # By `get`, as another thread may empty the memory.
        coded = {segment: of for segment in met if (of := known.get(segment)) is not None}
        words = pretokenizer().words_of_segments(met.difference(coded))
        mark = self._bytes([self._mark])
        new = {segment: mark if of is None else self._join(of) for segment, of in words.items()}
        remember(known, new, _SEGMENTS)
        coded |= new
        return [b"".join([coded[part] for part in text.split()]) for text in cut]

    def _code_lines(self, codes: Codes, marked: Codes, block: str) -> Codes:
        """The block's codes with the lines of marked chunks done as a unit."""
        lines = block.split(NEWLINE)
        breaks = np.flatnonzero(codes == self._newline)
        parts: list[Codes] = []
        done = 0
        for line in np.unique(np.searchsorted(breaks, marked)).tolist():
            start = int(breaks[line - 1]) + 1 if line else 0
            words = pretokenizer().words_of_line(lines[line])
            parts += (codes[done:start], np.frombuffer(self._join(words), self._type))
            done = int(breaks[line]) if line < len(breaks) else len(codes)
        return np.concatenate([*parts, codes[done:]])

    def _join(self, words: Sequence[str]) -> bytes:
        known = self._words
        return b"".join([known.get(word) or self._learn(word) for word in words])

    def _learn(self, word: str) -> bytes:
        codes = self._bytes(self._code_word(word))
        if len(self._words) >= _CHUNKS:
            self._words.clear()
        if len(word) <= _LONGEST_KEPT:
            self._words[word] = codes
        return codes

    def _bytes(self, codes: Sequence[int]) -> bytes:
        return array(self._type.char, codes).tobytes()


def count_words(text: str) -> Counter[str]:
    """How often each word occurs in `text`; line breaks are no words."""
    numbers: dict[str, int] = {}
    codes = WordCodes(
        lambda word: [numbers.setdefault(word, len(numbers) + 2)], newline=0, mark=1,
        dtype=np.uint32,
    ).encode(text)  # fmt: skip
    counts = np.bincount(codes, minlength=len(numbers) + 2).tolist()
    return Counter({word: counts[number] for word, number in numbers.items() if counts[number]})


def remember(known: dict[Key, Value], new: Mapping[Key, Value], ceiling: int) -> None:
    """Add `new` to `known`, but for long keys, and never more than `ceiling` entries: beyond it,
    all that was known is forgotten.
    """
    if len(known) + len(new) > ceiling:
        known.clear()
    for key, value in new.items():
        if len(key) <= _LONGEST_KEPT and len(known) < ceiling:
            known[key] = value


def _second_pass_exceptions(
    plain: Any, rules: Mapping[str, Any], orth: int
) -> set[tuple[str, ...]]:
    """The tokens, by affixes and infixes alone, of all exceptions that have other tokens.

    The second pass looks for these (and fewer).
    """
    exceptions = set()
    for text, tokens in rules.items():
        found = tuple(token.text for token in plain(text))
        if found != tuple(token[orth] for token in tokens):
            exceptions.add(found)
    return exceptions


def _first_pass(kind: Any, tokenizer: Any, rules: bool = True) -> Any:
    """A tokenizer that differs from `tokenizer` in leaving out the second pass, and the exceptions
    altogether without `rules`.

    spaCy prepares for it, when it is given the rules, those that an affix or an infix takes apart;
    while these are being given, no affix is found.
    """
    ready = False

    def late(search: Callable[[str], Any], nothing: Any) -> Callable[[str], Any]:
        return lambda text: search(text) if ready else nothing

    made = kind(
        tokenizer.vocab, rules=tokenizer.rules if rules else {},
        prefix_search=late(tokenizer.prefix_search, None),
        suffix_search=late(tokenizer.suffix_search, None),
        infix_finditer=late(tokenizer.infix_finditer, ()), token_match=tokenizer.token_match,
        url_match=tokenizer.url_match, max_cache_size=_CACHED_BY_SPACY,
    )
    ready = True
    return made


class _TorchRefused(MetaPathFinder):
    """Answers "no such module" for torch, to the thread that made it and to no other."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        del path, target
        if fullname == "torch" and threading.get_ident() == self._thread:
            raise ModuleNotFoundError("not imported for the sake of a tokenizer", name="torch")


@contextmanager
def _without_torch() -> Iterator[None]:
    """Within the block an optional `import torch` fails as if torch were not installed, unless it
    is loaded already.

    spaCy imports torch through thinc when it finds it (180 MB and a second for each process), and
    makes no use of it for tokenizing. torch can be imported as usual afterwards; only thinc goes on
    without it.
    """
    refusal = _TorchRefused()
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, refusal)
    try:
        yield
    finally:
        if refusal in sys.meta_path:
            sys.meta_path.remove(refusal)
