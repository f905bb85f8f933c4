"""A book through all rules: order, switches, counts, sizes, samples, and the text that stays as it came when all is off."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt1.corpus.book import Book
from gpt1.corpus.clean import clean
from gpt1.corpus.embedded import FALLBACK, embedded_files
from gpt1.corpus.rules.registry import BOOK_RULES, DEFAULTS, TEXT_RULES
from gpt1.corpus.size import Size, sentences
from gpt1.corpus.text_file import read_text
from gpt1.text.encoder import TextEncoder
from gpt1.text.vocabulary import Vocabulary
from tests.gpt1.real_books import embedded, shared_books
from tests.gpt1.straight_reading import StraightReading

OFF = {name: False if value is True else 0 for name, value in DEFAULTS.items()}


def book(text: str, form: str = "book") -> Book:
    return Book("id", "title", None, "source", text, form)


def real(name: str) -> str:
    return read_text(embedded_files()[name], name, FALLBACK)[0]


def test_all_off_keeps_every_byte() -> None:
    text = "# A\r\r\n\n_b_ &amp; “c” <i>[1]\r * * *\n\n\n\nProduced by Somebody\n\n"
    cleaned = clean(book(text), OFF)
    assert cleaned.book.text == text
    assert (cleaned.strikes, cleaned.changes, cleaned.samples, cleaned.rejected) == ({}, {}, (), None)


def test_with_all_rules_off_the_ids_are_those_of_the_raw_text(shared: Path) -> None:
    folder = shared / "gpt1_bpe"
    if not folder.is_dir():
        pytest.skip(f"no published vocabulary in {folder}")
    encoder = TextEncoder(Vocabulary.load(folder))
    straight = StraightReading(folder / "encoder_bpe_40000.json", folder / "vocab_40000.bpe")
    for raw in (
        real("problemG/Gtrain02-03.txt")[:40_000],
        embedded("brontes")[0][:20_000],
        "a\r\r\n_b_ &amp;amp; <i>c&amp;d\r\n\r\ne…",
    ):
        assert encoder.encode(clean(book(raw), OFF).book.text) == straight.ids(raw)


def test_line_ends_and_ftfy_alone_keep_the_ids_too(shared: Path) -> None:
    folder = shared / "gpt1_bpe"
    if not folder.is_dir():
        pytest.skip(f"no published vocabulary in {folder}")
    encoder = TextEncoder(Vocabulary.load(folder))
    raw = real("problemG/Gtrain02-03.txt")
    assert "\r" in raw
    mended = clean(book(raw), {**OFF, "line_ends": True, "ftfy": True})
    assert mended.strikes.keys() == {"line_ends"} | ({"ftfy"} & mended.strikes.keys())
    assert encoder.encode(mended.book.text) == encoder.encode(raw)


def test_line_ends_come_before_ftfy() -> None:
    kept = clean(book("one\r\r\ntwo\r\nthree\rfour &amp; “five”\n\n\n six "), {**OFF, "line_ends": True, "ftfy": True})
    assert kept.book.text == 'one\ntwo\nthree\nfour & "five"\n\n\n six '
    assert kept.strikes == {"ftfy": 1, "line_ends": 3}


@pytest.mark.parametrize("rule", [rule.name for rule in TEXT_RULES])
def test_each_switch_turns_its_rule_off_and_no_other(rule: str) -> None:
    text = real("problemG/Gtrain02-03.txt")
    whole = clean(book(text), {"minimum_words": 0})
    without = clean(book(text), {rule: False, "minimum_words": 0})
    assert rule not in without.strikes
    if rule not in whole.strikes:
        assert without == whole


def test_sizes_add_up_and_are_those_of_the_texts() -> None:
    for name in ("problemG/Gtrain02-03.txt", "russian_lit/Chekhov_The_Lady_with_the_Dog_and_Other_Stories.txt"):
        text = real(name) if name in embedded_files() else embedded("russian_lit")[0]
        cleaned = clean(book(text))
        assert cleaned.before == Size.of(text)
        assert cleaned.after == Size.of(cleaned.book.text)
        assert cleaned.before + sum(cleaned.changes.values(), Size()) == cleaned.after
        assert cleaned.changes.keys() == cleaned.strikes.keys()


def test_the_embedded_licence_goes_and_the_record_says_so() -> None:
    cleaned = clean(book(real("problemG/Gtrain02-03.txt")))
    assert "gutenberg" not in cleaned.book.text.lower()
    assert cleaned.book.text.startswith("THE CHESSMEN OF MARS")
    record = cleaned.record()
    assert record["rules"]["gutenberg"] == 2
    assert record["changes"]["gutenberg"]["words"] < -1000
    assert record["words_before"] - record["words"] == -sum(change["words"] for change in record["changes"].values())
    assert {sample.rule for sample in cleaned.samples} <= set(record["rules"])
    assert all(len(sample.before) < 300 for sample in cleaned.samples)


def test_a_rejected_book_is_kept_as_it_came() -> None:
    text = "  only “four” words here\r\n"
    rejected = clean(book(text), {"minimum_words": 5})
    assert (rejected.rejected, rejected.evidence) == ("too_short", "4 words; at least 5 wanted")
    assert rejected.book.text == text


def test_sentences_are_spared_what_is_made_for_books() -> None:
    text = "\n".join(["usually , he would be tearing around the living room , playing with his toys ."] * 30 + ["_no_ [1] ### one"])
    cleaned = clean(book(text, "sentences"))
    assert cleaned.rejected is None
    assert cleaned.book.text == text.replace("_no_", "no")
    assert clean(book("short .", "sentences")).rejected is None
    assert clean(book("short .")).rejected == "too_short"
    assert (
        clean(book("la vie est une histoire que les hommes ne savent pas dire avec des mots\n" * 9, "sentences")).rejected
        == "not_english"
    )


def test_the_registry_has_one_name_for_each_rule() -> None:
    names = [rule.name for rule in TEXT_RULES] + [rule.name for rule in BOOK_RULES]
    assert len(names) == len(set(names))
    assert all(rule.description.endswith(".") for rule in (*TEXT_RULES, *BOOK_RULES))


def test_sentences_are_counted_as_stated() -> None:
    text = 'CHAPTER I\n\nMr. Smith went. "Did he?" Yes... 3 men saw it! he said\nso. \n \n\n'
    assert list(sentences(text)) == ["CHAPTER I", "Mr. Smith went", '"Did he', "Yes", "3 men saw it! he said\nso. "]
    assert Size.of(text) == Size(words=15, sentences=5, bytes=len(text))


def test_nothing_is_lost_of_real_books_but_what_the_rules_name(shared: Path) -> None:
    for text in shared_books(shared, 1_500_000):
        cleaned = clean(book(text))
        assert cleaned.rejected is None
        assert cleaned.after == Size.of(cleaned.book.text)
        assert cleaned.after.words > 0.9 * cleaned.before.words
