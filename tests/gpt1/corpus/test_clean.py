"""A book through all rules: order, switches, counts, sizes, samples; with all off, the raw text."""

from collections import Counter
from pathlib import Path

import pytest

from gpt1.corpus.clean import DEFAULTS, TEXT_RULES, clean
from gpt1.corpus.demo_corpus import FALLBACK, embedded_files
from gpt1.corpus.document import Document
from gpt1.corpus.readers.text import decode
from gpt1.corpus.rules.rule import Size, sentences, shuffle_sentences
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.vocabulary import Vocabulary
from tests.gpt1.real_books import shared_books
from tests.gpt1.straight_reading import StraightReading

OFF = {name: False if value is True else 0 for name, value in DEFAULTS.items()}
MARS, LADY = "problemG/Gtrain02-03.txt", "brontes/Charlotte_Bronte_Jane_Eyre_ch01.txt"
FRENCH = "la vie est une histoire que les hommes ne savent pas dire avec des mots\n" * 9


def book(text: str, form: str = "book") -> Document:
    return Document("id", "title", None, "source", text, form)


def real(name: str) -> str:
    return decode(embedded_files()[name].read_bytes(), FALLBACK).text


@pytest.mark.parametrize("name", [MARS, LADY])
def test_rules_off_and_line_ends_and_ftfy_keep_the_ids(name: str, shared: Path) -> None:
    folder = shared / "gpt1_bpe"
    encoder = Tokenizer(Vocabulary.load(folder))
    straight = StraightReading(folder / "encoder_bpe_40000.json", folder / "vocab_40000.bpe")
    raw = real(name)[:40_000].replace("the", "&amp;amp; <i>the", 9).replace("\n", "\r\r\n", 9)
    wanted = straight.ids(raw)
    assert encoder.encode(clean(book(raw), OFF).book.text) == wanted
    fixed = clean(book(raw), {**OFF, "line_ends": True, "ftfy": True})
    assert encoder.encode(fixed.book.text) == wanted


def test_line_ends_come_before_ftfy() -> None:
    raw = "one\r\r\ntwo\r\nthree\rfour &amp; “five”\n\n\n six "
    kept = clean(book(raw), {**OFF, "line_ends": True, "ftfy": True})
    assert kept.book.text == 'one\ntwo\nthree\nfour & "five"\n\n\n six '
    assert kept.strikes == {"ftfy": 1, "line_ends": 3}


def test_each_switch_turns_its_rule_off_and_no_other() -> None:
    all_on = clean(book(real(MARS)))
    for rule in TEXT_RULES:
        without = clean(book(real(MARS)), {rule.name: False})
        assert rule.name not in without.strikes
        assert rule.name in all_on.strikes or without == all_on


def test_the_embedded_licence_goes_and_the_changes_add_up() -> None:
    text = real(MARS)
    cleaned = clean(book(text))
    assert (cleaned.before, cleaned.after) == (Size.of(text), Size.of(cleaned.book.text))
    assert cleaned.before + sum(cleaned.changes.values(), Size()) == cleaned.after
    assert cleaned.changes["gutenberg"].words < -1000
    assert cleaned.book.text.startswith("THE CHESSMEN OF MARS")
    assert "gutenberg" not in cleaned.book.text.lower()


def test_sentences_are_spared_what_is_made_for_books() -> None:
    sentence = "usually , he would be tearing around the living room , playing with his toys ."
    text = "\n".join([*[sentence] * 30, "_no_ [1] ### one"])
    assert clean(book(text, "sentences")).book.text == text.replace("_no_", "no")
    rejected = [clean(book(some, "sentences")).rejected for some in ("short .", FRENCH)]
    assert rejected == [None, "not_english"]


def test_sentences_are_counted_as_stated() -> None:
    text = 'CHAPTER I\n\nMr. Smith went. "Did he?" Yes... 3 men saw it! he said\nso. \n \n\n'
    wanted = ["CHAPTER I", "Mr. Smith went", '"Did he', "Yes", "3 men saw it! he said\nso. "]
    assert list(sentences(text)) == wanted
    assert Size.of(text) == Size(words=15, sentences=5, bytes=len(text))


def test_sentences_change_places_and_line_breaks_stay() -> None:
    text = '\n\nCHAPTER I.\n\nMr. Smith went. "Did he?"  Yes... He said\nso.\n \n\nThe end!\n'
    wanted = ["CHAPTER I.", "Mr. Smith went.", '"Did he?"', "Yes...", "He said\nso.", "The end!"]
    found = shuffle_sentences(text)
    assert found == shuffle_sentences(text)  # by its digest
    where = sorted(range(6), key=lambda number: found.index(wanted[number]))
    assert where != [*range(6)]
    spaces = ["\n\n", " ", "  ", " ", "\n \n\n", ""]
    order = zip((wanted[number] for number in where), spaces, strict=True)
    assert found == "".join(sentence + space for sentence, space in order)
    lines = shuffle_sentences("he went .\nso .\n\nshe stayed .\n", one_a_line=True)
    assert sorted(lines.split("\n")) == ["", "he went .", "she stayed .", "so ."]


@pytest.mark.parametrize("name", [MARS, LADY])
def test_shuffled_books_have_the_same_sentences(name: str) -> None:
    text = clean(book(real(name))).book.text
    found = shuffle_sentences(text)
    assert (Counter(found.split()), found.count("\n")) == (
        Counter(text.split()), text.strip().count("\n")
    )
    same = sum(a == b for a, b in zip(found.split(), text.split(), strict=True))
    assert same < 0.1 * len(text.split())


@pytest.mark.parametrize("name", ["homer/Homer_Iliad_book01.txt", "problemG/Gsample01.txt", LADY])
def test_joining_lines_loses_no_letter(name: str) -> None:
    off, on = (clean(book(real(name)), {"join_lines": on}).book.text for on in (False, True))
    assert "".join(on.split()) == "".join(off.split())
    assert on.count("\n") < off.count("\n") / 2


def test_nothing_is_lost_of_real_books_but_what_the_rules_name(shared: Path) -> None:
    for cleaned in (clean(book(text)) for text in shared_books(shared, 1_500_000)):
        assert cleaned.rejected is None
        assert cleaned.after.words > 0.9 * cleaned.before.words
