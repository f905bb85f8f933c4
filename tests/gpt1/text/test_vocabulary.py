"""The published form, and files that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from gpt1.errors import UserError
from gpt1.text.encoder import TextEncoder
from gpt1.text.learn import learn_merges
from gpt1.text.published import vocabulary_files
from gpt1.text.vocabulary import Vocabulary, alphabet
from gpt1.text.words import count_words, words
from tests.gpt1.real_books import embedded

MERGES = [("b", "c</w>"), ("a", "bc</w>"), ("a", "b"), ("ab", "c</w>")]


def test_the_published_files_are_read_and_written_alike(shared: Path, tmp_path: Path) -> None:
    published = Vocabulary.load(shared / "gpt1_bpe")
    assert published.size == 40_478
    assert published.ids["\n</w>"] == 40_477
    assert Vocabulary.from_merges(published.tokens[1:239], published.merges).tokens == published.tokens
    _, merges = published.save(tmp_path)
    assert merges.read_bytes() == (shared / "gpt1_bpe" / "vocab_40000.bpe").read_bytes()
    assert Vocabulary.load(tmp_path).sha256 == published.sha256


def test_layout_and_one_id_for_one_output() -> None:
    vocabulary = Vocabulary.from_merges(["a", "b", "c"], MERGES)
    assert vocabulary.tokens == ["<unk>", "a", "b", "c", "a</w>", "b</w>", "c</w>", "bc</w>", "abc</w>", "ab", "\n</w>"]
    assert len(vocabulary.merges) == 4


KNOWN = {
    ".</w>": 239, ",</w>": 240, "the</w>": 481, "n't</w>": 538, "...</w>": 749, "very</w>": 963, "positive</w>": 6353,
    "negative</w>": 9503, "<unk>": 0, "\n</w>": 40_477,
}  # fmt: skip


def test_known_ids_of_the_published_vocabulary(shared: Path) -> None:
    published = Vocabulary.load(shared / "gpt1_bpe")
    assert {token: published.ids[token] for token in KNOWN} == KNOWN


@pytest.mark.parametrize("size", [26, 60, 300])
def test_alphabets_of_other_sizes(size: int, tmp_path: Path) -> None:
    counts = count_words("\n".join(embedded("brontes")[:4]))
    # More characters, each in a word of its own.
    counts.update({chr(0x4E00 + number) * 2: 3 for number in range(260)})
    characters = alphabet(counts, size)
    vocabulary = Vocabulary.from_merges(characters, learn_merges(counts, 400))
    assert (len(characters), vocabulary.size) == (size, 1 + 2 * size + 400 + 1)
    vocabulary.save(tmp_path)
    encoder = TextEncoder(Vocabulary.load(tmp_path))
    text = "the house of the moors , and \n some more"
    assert encoder.decode(encoder.encode(text)) == "the house of the moors , and\nsome more" or size == 26
    assert 0 in encoder.encode("ъ")
    assert 0 not in encoder.encode("the")


def test_the_tokenizer_file_computes_our_ids_on_our_words(shared: Path) -> None:
    published = Vocabulary.load(shared / "gpt1_bpe")
    written = published.tokenizer_bytes()
    assert written is not None
    assert published.tokenizer_bytes() == written
    tokenizer = Tokenizer.from_str(written.decode())
    encoder = TextEncoder(published)
    texts = [*embedded("homer")[:3], *embedded("brontes")[:2], "Ωmega ж жж naïve\n\n“Don't!” U.S.A. <unk> </w> x</w>"]
    for text in texts:
        assert tokenizer.encode(" ".join(words(text))).ids == encoder.encode(text)


def test_no_tokenizer_file_where_it_would_compute_other_ids() -> None:
    assert Vocabulary.from_merges(["a", "b"], MERGES).tokenizer_bytes() is None


def test_the_names_of_the_hub_are_read_alike(shared: Path, tmp_path: Path) -> None:
    for name, other in (("encoder_bpe_40000.json", "vocab.json"), ("vocab_40000.bpe", "merges.txt")):
        (tmp_path / other).write_bytes((shared / "gpt1_bpe" / name).read_bytes())
    assert Vocabulary.load(tmp_path).sha256 == Vocabulary.load(shared / "gpt1_bpe").sha256


@pytest.mark.parametrize(
    ("source", "message"),
    [("/no/such", "no such folder"), (".", "no vocabulary"), ("hf://gpt", "expected hf://owner/name"), ("hf://a b/c", "a b/c")],
)
def test_sources_that_cannot_be_had(source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        vocabulary_files(source)


def test_alphabet_by_frequency_then_code_point() -> None:
    assert alphabet({"bba": 2, "cd": 2, "d": 1}, 3) == ["b", "d", "a"]


def _merges(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "vocab_4.bpe"
        file.write_text("\n".join(change(file.read_text().split("\n"))))

    return apply


def _encoder(change: Callable[[dict[str, int]], dict[str, int]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "encoder_bpe_4.json"
        file.write_text(json.dumps(change(json.loads(file.read_text()))))

    return apply


def _append(file: Path, data: bytes) -> None:
    file.write_bytes(file.read_bytes() + data)


def _written_twice(folder: Path) -> None:
    file = folder / "encoder_bpe_4.json"
    file.write_text(file.read_text().replace('"b": 2', '"a": 2'))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "header": (_merges(lambda lines: ["#version: 0.1", *lines[1:]]), r"vocab_4\.bpe, line 1: found '#version: 0\.1'"),
    "cut short": (_merges(lambda lines: lines[:-1]), r"vocab_4\.bpe, line 5: .*cut short"),
    "one field": (_merges(lambda lines: [*lines[:2], "ab", *lines[3:]]), r"vocab_4\.bpe, line 3: found 'ab'"),
    "merge twice": (_merges(lambda lines: [*lines[:2], lines[1], *lines[2:]]), r"vocab_4\.bpe, line 3: .* line 2 already"),
    "merge without id": (_merges(lambda lines: [*lines[:2], "b b", *lines[2:]]), r"vocab_4\.bpe, line 3: .*'bb' has no id"),
    "missing merge": (_merges(lambda lines: [lines[0], *lines[2:]]), r"vocab_4\.bpe, line 2: 'bc</w>' is neither a char.*missing"),
    "token of no merge": (_merges(lambda lines: [*lines[:3], ""]), r"token 'ab' \(id 9\) is the output of no merge"),
    "three fields": (_merges(lambda lines: [*lines[:2], "a b c", *lines[3:]]), r"vocab_4\.bpe, line 3: found 'a b c', .*two"),
    "not UTF-8": (lambda folder: _append(folder / "vocab_4.bpe", b"\xff\n"), r"vocab_4\.bpe: byte \d+ is not UTF-8"),
    "gap in the ids": (
        _encoder(lambda ids: {k: v + (v > 4) for k, v in ids.items()}),
        r"encoder_bpe_4\.json: token '.n</w>' has id 11, expected a number from 0 to 10",
    ),
    "duplicate id": (_encoder(lambda ids: {**ids, "b": 1}), r"encoder_bpe_4\.json: id 1 stands for both 'a' and 'b'"),
    "id out of range": (_encoder(lambda ids: {**ids, "b": 99}), r"'b' has id 99, expected a number from 0 to 10"),
    "token twice": (_written_twice, r"encoder_bpe_4\.json: token 'a' occurs twice"),
    "no line break": (
        _encoder(lambda ids: {"z" if k == "\n</w>" else k: v for k, v in ids.items()}),
        r"line break's token .* is missing",
    ),
    "no json": (lambda folder: (folder / "encoder_bpe_4.json").write_text('{"a": 1,\n'), r"encoder_bpe_4\.json, line 2: not JSON"),  # type: ignore[dict-item,return-value]
    "no file": (lambda folder: (folder / "vocab_4.bpe").unlink(), r"found 1 files encoder_bpe_\*\.json and 0 files vocab_\*\.bpe"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_and_refused(name: str, tmp_path: Path) -> None:
    Vocabulary.from_merges(["a", "b", "c"], MERGES).save(tmp_path)
    assert Vocabulary.load(tmp_path).merges == MERGES
    spoil, message = BROKEN[name]
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        Vocabulary.load(tmp_path)
