"""Ids against the straight reading of SPEC section 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from gpt1.text.encoder import TextEncoder
from gpt1.text.vocabulary import Vocabulary
from tests.gpt1.real_books import embedded, learned_vocabulary, shared_books
from tests.gpt1.straight_reading import StraightReading
from tests.gpt1.text.hostile import code_points, random_texts, sweep, texts

HOSTILE = [
    "",
    " \n\n ",
    "\n",
    "para one.\n\npara two.",
    "U.S.A. o'clock y'all can't I'm gonna 5pm 10km :-) <3 don´t…",
    'well—he said – and ― then --- stopped!!! "why?" (a/b) [c] {d} *e* |f| _g_ ~h~ a+b a\\b a;b',
    "https://example.org/a?b=c&d=e me@example.org #tag $5.00 50% A&B ^x <y> `z`",
    "sÃ© mojibake â€œquotedâ€\x9d caf\u00e9 cafe\u0301 İstanbul ﬁne ½ ™",
    "tab\there nbsp\u00a0here wide\u3000here sep\u2028line\u2029par\x85nel\x0bvt\x0cff\x1cfs",
    "&lt;p&gt; &amp; &nbsp; < and &eacute; after",
    "emoji 😀👩‍👩‍👧 汉字 עברית",
    "</w> <unk> a</w>b",
    "\r\n windows \r mac \r\r\n both",
    "x" * 300,
    "ab" * 3000 + "'s",
    "goin 'bout:x and 'bout:x alone\n\ngoin\n'bout:x",
    "they wed.' Mrs.Gamp. ''Tis 'em.' goin 'em.' x:goin' s",
    "ΟΔΥΣΣΕΥΣ ΣΑΣ. ΑΣ's Σ Σ. İİ ǅ ŉa ß ẞ",
]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextEncoder, StraightReading]:
    """A vocabulary learned from the embedded corpus's Homer, and the straight reading of its files."""
    encoder, merges = learned_vocabulary().save(tmp_path_factory.mktemp("vocabulary"))
    return TextEncoder(Vocabulary.read(encoder, merges)), StraightReading(encoder, merges)


@pytest.fixture(scope="module")
def published(shared: Path) -> tuple[TextEncoder, StraightReading]:
    folder = shared / "gpt1_bpe"
    return TextEncoder(Vocabulary.load(folder)), StraightReading(folder / "encoder_bpe_40000.json", folder / "vocab_40000.bpe")


def test_known_ids_of_the_published_vocabulary(published: tuple[TextEncoder, StraightReading]) -> None:
    encoder, straight = published
    known = [34124, 566, 239, 40477, 34124, 867, 239]
    assert encoder.encode("para one.\n\npara two.") == known
    assert straight.ids("para one.\n\npara two.") == known
    assert encoder.decode(known) == "para one .\npara two ."
    assert encoder.encode("The n't... very positive, negative.") == [481, 538, 749, 963, 6353, 240, 9503, 239]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text(text: str, learned: tuple[TextEncoder, StraightReading]) -> None:
    encoder, straight = learned
    assert encoder.encode(text) == straight.ids(text)


@settings(max_examples=400, deadline=None)
@given(text=texts())
def test_any_text(text: str, learned: tuple[TextEncoder, StraightReading]) -> None:
    encoder, straight = learned
    assert encoder.encode(text) == straight.ids(text)


def test_many_texts(learned: tuple[TextEncoder, StraightReading]) -> None:
    encoder, straight = learned
    for seed in range(10, 14):
        text = "\n\n".join(random_texts(seed, 2_500))
        assert encoder.encode(text) == straight.ids(text)


def test_a_sample_of_all_code_points(learned: tuple[TextEncoder, StraightReading]) -> None:
    encoder, straight = learned
    for text in sweep(range(11, sys.maxunicode, 151)):
        assert encoder.encode(text) == straight.ids(text)


def test_counts_of_words_and_unknown_pieces(learned: tuple[TextEncoder, StraightReading]) -> None:
    """The vocabulary knows no emoji and no Hebrew: pieces unknown at a word's end, before it, and alone."""
    encoder, straight = learned
    for text in ["a😀b 😀 ab😀\n\n\nעב it's", "", "\n \n", "'bout:x goin 'bout:😀", *random_texts(5, 300)]:
        encoded = encoder.encode_array(text)
        expected = straight.ids(text)
        assert encoded.ids.tolist() == expected
        assert encoded.words == sum(word != "\n " for word in straight.words(text))
        assert encoded.unknown == expected.count(0)


def test_the_array_is_the_callers_own_and_as_wide_as_the_vocabulary_needs(learned: tuple[TextEncoder, StraightReading]) -> None:
    encoder, straight = learned
    text = embedded("homer")[1][:20_000]
    ids = encoder.encode_array(text).ids
    assert ids.dtype == np.uint16
    ids[:] = 1
    assert encoder.encode(text) == straight.ids(text)
    vocabulary = Vocabulary([*encoder.vocabulary.tokens, *(f"{number}q" for number in range(70_000))], encoder.vocabulary.merges)
    wide = TextEncoder(vocabulary).encode_array(text).ids
    assert wide.dtype == np.uint32
    assert wide.tolist() == straight.ids(text)


@pytest.mark.slow
def test_all_code_points(learned: tuple[TextEncoder, StraightReading]) -> None:
    encoder, straight = learned
    for text in sweep(code_points(rare=50)):
        assert encoder.encode(text) == straight.ids(text)


def test_embedded_books(learned: tuple[TextEncoder, StraightReading]) -> None:
    encoder, straight = learned
    for text in [*embedded("brontes")[:6], *embedded("homer")[20:24], *embedded("problemC")[24:26]]:
        assert encoder.encode(text) == straight.ids(text)


def test_a_full_dictionary_changes_nothing(learned: tuple[TextEncoder, StraightReading], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, straight = learned
    monkeypatch.setattr("gpt1.text.encoder._CEILING", 50)
    monkeypatch.setattr("gpt1.text.chunk_words._STRINGS_CEILING", 1000)
    small = TextEncoder(encoder.vocabulary)
    for text in embedded("brontes")[8:10]:
        assert small.encode(text) == straight.ids(text)
    assert len(small._known) <= 50 + len(small._separators)


@pytest.mark.slow
def test_five_megabytes_of_the_shared_books(published: tuple[TextEncoder, StraightReading], shared: Path) -> None:
    encoder, straight = published
    texts = shared_books(shared, 5_000_000)
    assert sum(len(text.encode()) for text in texts) >= 5_000_000
    for text in texts:
        assert encoder.encode(text) == straight.ids(text)


def test_decoding_refuses_ids_outside(learned: tuple[TextEncoder, StraightReading]) -> None:
    encoder, _ = learned
    with pytest.raises(ValueError, match="is not in the vocabulary"):
        encoder.decode([encoder.vocabulary.size])


def test_words_are_counted_without_line_breaks(learned: tuple[TextEncoder, StraightReading]) -> None:
    encoder, _ = learned
    encoded = encoder.encode_array("one two.\nthree")
    assert encoded.words == 4
    assert encoder.vocabulary.ids["\n</w>"] in encoded.ids


def test_tokenizing_does_not_import_torch_and_does_not_prevent_it() -> None:
    code = (
        "import sys; from gpt1.text.words import words; assert words('Don\\'t.') == ['do', \"n't\", '.'];"
        "assert 'torch' not in sys.modules, 'torch was imported'; import torch; assert torch.zeros(1).item() == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[3])
