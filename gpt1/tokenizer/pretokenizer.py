"""The words of one chunk (what stands between white space), where they do not depend on its
neighbours.

A chunk, padded, is one or more stretches. spaCy's tokenizer works on them in two passes. The first
takes each stretch for itself. The second looks for exceptions in the tokens of the whole text,
blind to white space: of those that overlap the longest wins, and one that spans white space may win
but changes nothing. So a neighbour can take one of the second pass's changes from a stretch, and
can add none: `'bout:x` is `'bout` `:x`, but after `goin` it is `'` `bout` `:x`, for `goin '` is an
exception too. A stretch that the second pass would not change when it stands alone, it changes
nowhere. The others are "delicate": 44 in 4.2 million chunks of the first 20 MB of the shared books.
Their lines are tokenized whole. A line break ends all such dependence, its token is in no
exception.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain, islice
from typing import Any, TypeVar

from gpt1.tokenizer.normalize import padded, standardize
from gpt1.tokenizer.without_torch import torch_left_out

# Longer ones are not remembered, so that ceilings on entries bound the memory.
LONGEST_KEPT = 64
_STRETCHES_CEILING = 300_000
_CACHED_BY_SPACY = 100_000
_STRINGS_CEILING = 2_000_000
_BREAK = " \n "

Words = tuple[str, ...]
Value = TypeVar("Value")


class ChunkWords:
    """Lower-cased words of chunks.

    It remembers stretches up to a ceiling, which changes no result.
    """

    def __init__(self) -> None:
        with torch_left_out():
            import spacy
            from spacy.attrs import ORTH
            from spacy.tokenizer import Tokenizer
        self._blank = spacy.blank
        self._kind = Tokenizer
        self._orth = ORTH
        self._known: dict[str, Words | None] = {}
        self._renew()

    def _renew(self) -> None:
        # spaCy remembers every string it has seen. Only the rules and exceptions matter; `blank`
        # has those of the trained pipelines.
        nlp: Any = self._blank("en")
        # What else spaCy would work out for each new word (its shape, whether it is a number) is
        # used by nobody here.
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

    def of_line(self, line: str) -> list[str]:
        """The words of a fixed line, by both passes over the whole line."""
        return [token.lower() for token in self._lines([standardize(line)], self._tokenizer)[0]]

    def of_chunks(self, chunks: Sequence[str]) -> list[Words | None]:
        """The words of each of `normalise.chunks`, of which none is empty or a line break; None
        for a delicate one.
        """
        cut = stretches(chunks)
        known = self.of_stretches(set(chain.from_iterable(cut)))
        return [
            known[parts[0]] if len(parts) == 1 else _joined([known[part] for part in parts])
            for parts in cut
        ]

    def of_stretches(self, wanted: set[str]) -> dict[str, Words | None]:
        """The words of each of the `stretches` of chunks; None for a delicate one."""
        found = {stretch: self._known[stretch] for stretch in wanted if stretch in self._known}
        new: dict[str, Words | None] = {}
        hard = []
        for stretch in wanted.difference(found):
            if stretch.isalpha() and stretch.isascii() and stretch not in self._rules:
                new[stretch] = (
                    stretch.lower(),
                )  # one token, and no exception: that would be a rule
                continue
            tokens = self._plain_tokens(stretch)
            if tokens:
                new[stretch] = (
                    None
                    if self._has_exception(tokens)
                    else tuple([token.lower() for token in tokens])
                )
            else:
                hard.append(stretch)
        for stretch, tokens in zip(hard, self._lines(hard, self._first_pass), strict=True):
            new[stretch] = (
                None if self._has_exception(tokens) else tuple([token.lower() for token in tokens])
            )
        remember(self._known, new, _STRETCHES_CEILING)
        return found | new

    def _plain_tokens(self, stretch: str) -> Sequence[str]:
        """The first pass's tokens of ASCII letters with `'s` or a full stop after them, if no
        exception is there.

        spaCy's other affixes, its infixes and its addresses all need something beside letters. A
        full stop after a capital may belong to the word. Empty for everything else, which is left
        to spaCy.
        """
        if stretch.endswith("'s"):
            word, tail = stretch[:-2], "'s"
        elif stretch.endswith(".") and stretch[-2:-1].islower():
            word, tail = stretch[:-1], "."
        else:
            return ()
        if not (word.isascii() and word.isalpha()) or stretch in self._rules or word in self._rules:
            return ()
        return (word, tail)

    def _has_exception(self, tokens: Sequence[str]) -> bool:
        """Whether the second pass would change the first pass's tokens of a stretch that stands
        alone.
        """
        places = (
            (start, end)
            for end in range(1, len(tokens) + 1)
            for start in range(max(0, end - self._longest), end)
        )
        return any(tuple(tokens[start:end]) in self._exceptions for start, end in places)

    def _lines(self, lines: list[str], tokenizer: Any) -> list[list[str]]:
        """The tokens of standardised lines, each without a line break."""
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


def stretches(chunks: Sequence[str]) -> list[list[str]]:
    """Each of `normalise.chunks`, of which none is empty or a line break, padded and cut where
    that put spaces.
    """
    return [line.split() for line in padded("\n".join(chunks)).split("\n")] if chunks else []


def _joined(parts: list[Words | None]) -> Words | None:
    joined: list[str] = []
    for words in parts:
        if words is None:
            return None
        joined += words
    return tuple(joined)


def remember(known: dict[str, Value], new: Mapping[str, Value], ceiling: int) -> None:
    """Add `new` to `known`, but for long keys, and never more than `ceiling` entries: beyond it,
    all that was known is forgotten.
    """
    short = {key: value for key, value in new.items() if len(key) <= LONGEST_KEPT}
    if len(known) + len(short) > ceiling:
        known.clear()
    known.update(islice(short.items(), ceiling))


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


@cache
def chunk_words() -> ChunkWords:
    """This process's tokenizer (about 0.5 s to make)."""
    return ChunkWords()
