"""Words and ids against the straight reading (tests/gpt1/straight_reading.py), and OpenAI's ids."""

import re
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings

from gpt1.tokenizer import pretokenizer
from gpt1.tokenizer.normalize import LONGEST, separate, split_chunks
from gpt1.tokenizer.pretokenizer import count_words
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.vocabulary import Vocabulary
from tests.conftest import ROOT
from tests.gpt1.real_books import embedded, learned_vocabulary, shared_books
from tests.gpt1.straight_reading import StraightReading
from tests.gpt1.tokenizer.hostile import code_points, random_texts, sweep, texts

Pair = tuple[Tokenizer, StraightReading]
HOSTILE = [
    "", " \n\n ", "\n", "para one.\n\npara two.", "\r\n windows \r mac \r\r\n both", "x" * 300,
    "ab" * 3000 + "'s", "U.S.A. o'clock y'all can't I'm gonna 5pm 10km :-) <3 don´t…",
    'well—he said – and ― then --- stopped!!! "why?" (a/b) [c] {d} *e* |f| _g_ ~h~ a+b a\\b a;b',
    "https://example.org/a?b=c&d=e me@example.org #tag $5.00 50% A&B ^x <y> `z`",
    "&lt;p&gt; &amp; &nbsp; < and &eacute; after", "</w> <unk> a</w>b",
    "goin 'bout:x and 'bout:x alone\n\ngoin\n'bout:x", "a😀b 😀 ab😀\n\n\nעב it's",
    "they wed.' Mrs.Gamp. ''Tis 'em.' goin 'em.' x:goin' s", "ΟΔΥΣΣΕΥΣ ΣΑΣ. ΑΣ's Σ Σ. İİ ǅ ŉa ß ẞ",
]  # fmt: skip


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A vocabulary learned from the embedded corpus's Homer, and the straight reading of it."""
    files = learned_vocabulary().save(tmp_path_factory.mktemp("vocabulary"))
    return Tokenizer(Vocabulary.read(*files)), StraightReading(*files)


@pytest.fixture(scope="module")
def published(shared: Path) -> Pair:
    files = shared / "gpt1_bpe" / "encoder_bpe_40000.json", shared / "gpt1_bpe" / "vocab_40000.bpe"
    return Tokenizer(Vocabulary.read(*files)), StraightReading(*files)


def same(text: str, pair: Pair) -> None:
    """The words' counts, ids and numbers are those of the straight reading."""
    encoder, straight = pair
    tokens = straight.words(text)
    counts = Counter(token for token in tokens if token != "\n ")
    assert count_words(text) == counts
    ids = [straight.encoder.get(piece, 0) for token in tokens for piece in straight.bpe(token)]
    encoded = encoder.encode_array(text)
    assert encoded.ids.tolist() == ids
    assert (encoded.words, encoded.unknown) == (counts.total(), ids.count(0))


def test_known_ids_of_the_published_vocabulary(published: Pair) -> None:
    encoder, straight = published
    text, known = "para one.\n\npara two.", [34124, 566, 239, 40477, 34124, 867, 239]
    assert encoder.encode(text) == known == straight.ids(text)
    assert encoder.decode(known) == "para one .\npara two ."
    negative = [481, 538, 749, 963, 6353, 240, 9503, 239]
    assert encoder.encode("The n't... very positive, negative.") == negative


def test_hostile_texts_and_real_books(learned: Pair) -> None:
    books = [*embedded("brontes")[:4], *embedded("homer")[20:24], *embedded("problemC")[24:26]]
    for text in (*HOSTILE, *books):
        same(text, learned)


@settings(max_examples=400, deadline=None)
@given(text=texts())
def test_any_text(text: str, learned: Pair) -> None:
    same(text, learned)


def test_many_texts(learned: Pair) -> None:
    # A line break ends each dependence: joined by blank lines these are thousands of texts in one.
    same("\n\n".join(random_texts(0, 5_000)), learned)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_code_points(every: bool, learned: Pair) -> None:
    for text in sweep(code_points(rare=1000) if every else range(0, sys.maxunicode, 199)):
        same(text, learned)


def test_exceptions_beside_one_another(learned: Pair) -> None:
    """spaCy's exceptions, cut anywhere and glued to others: there its second pass matters."""
    rules = sorted(learned[1].nlp.tokenizer.rules)
    draw = Random(3)
    lines = [f"{rule[:at]} {rule[at:]}" for rule in rules for at in range(1, len(rule))]
    for rule in rules:
        lines += [f"{rule}. {rule}'s {rule}.'s a{rule}. Z{rule}'s {rule}z. {rule}Z."]
        lines += [f"{rule.upper()}'s {rule.title()}."]
        for glue in ["", ":", "<", "x:", "''", ".x"]:
            lines += [f"{glue}{rule} {draw.choice(rules)}{glue} {draw.choice(rules)}"]
        cut = rule[: draw.randint(1, 9)]
        lines += [f"{draw.choice(rules)} {cut}:{draw.choice(rules)}=x {rule}"]
    same("\n".join(lines), learned)


@pytest.mark.slow
def test_five_megabytes_of_the_shared_books(published: Pair, shared: Path) -> None:
    for text in shared_books(shared, 5_000_000):
        same(text, published)


def test_small_memories_change_nothing(learned: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, ceiling in {"_SEGMENTS": 20, "_STRINGS": 1000, "_CHUNKS": 50}.items():
        monkeypatch.setattr(pretokenizer, name, ceiling)
    pretokenizer.pretokenizer.cache_clear()
    small = Tokenizer(learned[0].vocabulary)
    for text in embedded("brontes")[7:9]:
        same(text, (small, learned[1]))
    assert len(small._codes._segments) <= 20
    assert len(small._codes._chunks) <= 50 + 2
    assert len(pretokenizer.pretokenizer()._strings) < 30_000
    pretokenizer.pretokenizer.cache_clear()


def test_spacy_is_given_nothing_longer_than_the_ceiling(
    learned: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time grows with the square of a segment's length. Real text stays as it is."""
    made, given = pretokenizer.pretokenizer(), list[str]()
    lines = type(made)._lines
    monkeypatch.setattr(
        made, "_lines", lambda texts, of: given.extend(texts) or lines(made, texts, of)
    )
    for sign in ("$", ":#", "goin'"):
        text = sign * (4 * LONGEST // len(sign) + 1)
        same(f"{text} goin 'bout:x {text}", learned)
    assert max(len(part) for text in given for part in text.split()) == LONGEST
    longest = max(
        len(part)
        for book in [*embedded("homer"), *embedded("brontes")]
        for chunk in split_chunks(book)[0]
        for part in separate([chunk.decode()])[0].split()
    )
    assert longest < 50


def test_affixes_of_letters_are_those_of_spacy() -> None:
    made = pretokenizer.pretokenizer()
    words = {word for rule in made._rules for word in re.findall("[A-Za-z]+", rule)}
    words |= {"word", "Word", "WORD", "wORD", "woRd", "q", "Q", "localhost", "http", "km", "C"}
    affixes = list(product(["", "'"], ["", "'s"], ["", ".", ":"], ["", "'"]))
    segments = [before + word + "".join(after) for word in words for before, *after in affixes]
    assert len(segments) > 10_000
    found = {segment: made._plain_tokens(segment) for segment in segments}
    of_spacy = made._lines(segments, made._first_pass)
    wrong = [
        segment for segment, tokens in zip(segments, of_spacy, strict=True)
        if found[segment] and found[segment] != tokens
    ]  # fmt: skip
    assert not wrong
    assert sum(map(bool, found.values())) > 4_000


def test_ids_are_as_wide_as_the_vocabulary_needs(learned: Pair) -> None:
    encoder, straight = learned
    tokens = [*encoder.vocabulary.tokens, *(f"{number}q" for number in range(70_000))]
    wide = Tokenizer(Vocabulary(tokens, encoder.vocabulary.merges))
    same(embedded("homer")[1][:20_000], (wide, straight))
    assert encoder.encode_array("a").ids.dtype == np.uint16
    assert wide.encode_array("a").ids.dtype == np.uint32


def test_decoding_refuses_ids_outside(learned: Pair) -> None:
    with pytest.raises(ValueError, match="is not in the vocabulary"):
        learned[0].decode([learned[0].vocabulary.size])


def test_tokenizing_does_not_import_torch_and_does_not_prevent_it() -> None:
    code = """import sys; from gpt1.tokenizer.pretokenizer import count_words
assert count_words('Do.') == {'do': 1, '.': 1}
assert 'torch' not in sys.modules; import torch; assert torch.zeros(1).item() == 0"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
