"""The published form, and files that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt1.errors import UserError
from gpt1.text.vocabulary import Vocabulary, alphabet

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


def _written_twice(folder: Path) -> None:
    file = folder / "encoder_bpe_4.json"
    file.write_text(file.read_text().replace('"b": 2', '"a": 2'))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "header": (_merges(lambda lines: ["#version: 0.1", *lines[1:]]), r"vocab_4\.bpe, line 1: found '#version: 0\.1'"),
    "cut short": (_merges(lambda lines: lines[:-1]), r"vocab_4\.bpe, line 5: .*cut short"),
    "one field": (_merges(lambda lines: [*lines[:2], "ab", *lines[3:]]), r"vocab_4\.bpe, line 3: found 'ab'"),
    "merge twice": (_merges(lambda lines: [*lines[:2], lines[1], *lines[2:]]), r"vocab_4\.bpe, line 3: .* line 2 already"),
    "merge without id": (_merges(lambda lines: [*lines[:2], "b b", *lines[2:]]), r"vocab_4\.bpe, line 3: .*'bb' has no id"),
    "missing merge": (_merges(lambda lines: [lines[0], *lines[2:]]), r"'bc</w>' \(id 7\) is the output of no merge"),
    "duplicate id": (_encoder(lambda ids: {**ids, "b": 1}), r"encoder_bpe_4\.json: id 1 stands for both 'a' and 'b'"),
    "id out of range": (_encoder(lambda ids: {**ids, "b": 99}), r"'b' has id 99, expected a number from 0 to 10"),
    "token twice": (_written_twice, r"encoder_bpe_4\.json: token 'a' occurs twice"),
    "no line break": (
        _encoder(lambda ids: {"z" if k == "\n</w>" else k: v for k, v in ids.items()}),
        r"line break's token .* is missing",
    ),
    "no json": (lambda folder: (folder / "encoder_bpe_4.json").write_text('{"a": 1,\n'), r"encoder_bpe_4\.json, line 2: not JSON"),  # type: ignore[dict-item,return-value]
    "no file": (lambda folder: (folder / "vocab_4.bpe").unlink(), r"found 0 files vocab_\*\.bpe"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_and_refused(name: str, tmp_path: Path) -> None:
    Vocabulary.from_merges(["a", "b", "c"], MERGES).save(tmp_path)
    assert Vocabulary.load(tmp_path).merges == MERGES
    spoil, message = BROKEN[name]
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        Vocabulary.load(tmp_path)
