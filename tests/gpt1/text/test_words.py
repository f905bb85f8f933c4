"""Words against the straight reading, above all where a chunk's words depend on its neighbours."""

from __future__ import annotations

import sys
from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings

from gpt1.text.chunk_words import chunk_words
from gpt1.text.words import count_words, words
from tests.gpt1.real_books import embedded
from tests.gpt1.straight_reading import standardise
from tests.gpt1.text.hostile import random_texts, sweep, texts


@cache
def spacy_tokenizer() -> object:
    import spacy

    return spacy.blank("en").tokenizer


def straight_words(text: str) -> list[str]:
    import ftfy

    tokens = spacy_tokenizer()(standardise(ftfy.fix_text(text)))  # type: ignore[operator]
    return ["\n" if token.text == "\n " else token.text.lower() for token in tokens]


def same(text: str) -> None:
    expected = straight_words(text)
    assert words(text) == expected
    assert count_words(text) == Counter(word for word in expected if word != "\n")


@settings(max_examples=400, deadline=None)
@given(text=texts())
def test_any_text(text: str) -> None:
    same(text)


def test_many_texts() -> None:
    # Joined by blank lines: a line break ends every dependence, so this is ten thousand texts in one.
    for seed in range(4):
        same("\n\n".join(random_texts(seed, 2_500)))


def test_exceptions_beside_one_another() -> None:
    """All of spaCy's exceptions whole, cut by a space at each place, and glued to others: where the second pass matters."""
    from random import Random

    rules = sorted(spacy_tokenizer().rules)  # type: ignore[attr-defined]
    draw = Random(3)
    lines = [f"{rule[:at]} {rule[at:]}" for rule in rules for at in range(1, len(rule))]
    for rule in rules:
        lines.append(f"{rule}. {rule}'s {rule}.'s a{rule}. Z{rule}'s {rule}z. {rule}Z. {rule.upper()}'s {rule.title()}.")
        lines += [f"{glue}{rule} {draw.choice(rules)}{glue} {draw.choice(rules)}" for glue in ["", ":", "<", "x:", "''", ".x"]]
        lines += [f"{draw.choice(rules)} {rule[: draw.randint(1, 9)]}:{draw.choice(rules)}=x {rule}" for _ in range(3)]
    same("\n".join(lines))


def test_a_neighbour_can_take_an_exception_away() -> None:
    assert words("'bout:x") == ["'bout", ":x"]
    assert words("goin 'bout:x") == ["goin", "'", "bout", ":x"]
    assert words("goin\n'bout:x") == ["goin", "\n", "'bout", ":x"]
    assert chunk_words().of_chunks(["'bout:x", "'bout"]) == [None, ("'bout",)]


def test_a_sample_of_all_code_points() -> None:
    for text in sweep(range(0, sys.maxunicode, 151)):
        same(text)


def test_embedded_books() -> None:
    for text in [*embedded("brontes")[:4], *embedded("homer")[:8]]:
        same(text)


def test_small_memories_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt1.text.words._CEILING", 20)
    monkeypatch.setattr("gpt1.text.chunk_words._STRETCHES_CEILING", 20)
    chunk_words.cache_clear()
    same(embedded("homer")[0])
    assert len(chunk_words()._known) <= 20
    chunk_words.cache_clear()
