"""The published form, and files that are refused."""

from pathlib import Path

import pytest
import tokenizers

from gpt1.tokenizer.bpe_train import learn_merges
from gpt1.tokenizer.pretokenizer import count_words
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.vocabulary import Vocabulary, alphabet, vocabulary_files
from tests.conftest import refuses
from tests.gpt1.real_books import embedded
from tests.gpt1.straight_reading import StraightReading

MERGES = [("b", "c</w>"), ("a", "bc</w>"), ("a", "b"), ("ab", "c</w>")]


def test_the_published_files_are_read_and_written_alike(shared: Path, tmp_path: Path) -> None:
    published = Vocabulary.load(shared / "gpt1_bpe")
    assert published.size == 40_478
    again = Vocabulary.from_merges(published.tokens[1:239], published.merges)
    assert again.tokens == published.tokens
    encoder, merges = published.save(tmp_path)
    assert merges.read_bytes() == (shared / "gpt1_bpe" / "vocab_40000.bpe").read_bytes()
    assert Vocabulary.load(tmp_path).sha256 == published.sha256
    encoder.rename(tmp_path / "vocab.json")
    merges.rename(tmp_path / "merges.txt")
    assert Vocabulary.load(tmp_path).sha256 == published.sha256


def test_layout_and_one_id_for_one_output() -> None:
    wanted = ["<unk>", *"abc", "a</w>", "b</w>", "c</w>", "bc</w>", "abc</w>", "ab", "\n</w>"]
    assert Vocabulary.from_merges(["a", "b", "c"], MERGES).tokens == wanted


@pytest.mark.parametrize("size", [26, 60, 300])
def test_alphabets_of_other_sizes(size: int, tmp_path: Path) -> None:
    counts = count_words("\n".join(embedded("brontes")[:4]))
    # More characters, each in a word of its own.
    counts.update({chr(0x4E00 + number) * 2: 3 for number in range(260)})
    characters = alphabet(counts, size)
    vocabulary = Vocabulary.from_merges(characters, learn_merges(counts, 400))
    assert (len(characters), vocabulary.size) == (size, 1 + 2 * size + 400 + 1)
    vocabulary.save(tmp_path)
    encoder = Tokenizer(Vocabulary.load(tmp_path))
    text = "the house of the moors , and\nsome more"
    assert encoder.decode(encoder.encode(text)) == text or size == 26
    assert (0 in encoder.encode("ъ"), 0 in encoder.encode("the")) == (True, False)


def test_alphabet_by_frequency_then_code_point() -> None:
    assert alphabet({"bba": 2, "cd": 2, "d": 1}, 3) == ["b", "d", "a"]


def test_the_tokenizer_file_computes_our_ids_on_our_words(shared: Path) -> None:
    published = Vocabulary.load(shared / "gpt1_bpe")
    straight = StraightReading(*vocabulary_files(str(shared / "gpt1_bpe")))
    written = published.tokenizer_bytes() or b""
    assert published.tokenizer_bytes() == written
    tokenizer, encoder = tokenizers.Tokenizer.from_str(written.decode()), Tokenizer(published)
    odd = "Ωmega ж жж naïve\n\n“Don't!” U.S.A. <unk> </w> x</w>"
    for text in [*embedded("homer")[:3], *embedded("brontes")[:2], odd]:
        words = (token.rstrip(" ") for token in straight.words(text))
        assert tokenizer.encode(" ".join(words)).ids == encoder.encode(text)
    assert Vocabulary.from_merges(["a", "b"], MERGES).tokenizer_bytes() is None  # other ids


def test_sources_that_cannot_be_had(tmp_path: Path) -> None:
    wanted = {"hf://gpt": "expected hf://owner/name", "hf://a b/c": "a b/c"}
    for source, message in {**wanted, "/no": "no such folder", str(tmp_path): "no voc"}.items():
        refuses(message, vocabulary_files, source)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).mkdir()
    refuses("cannot be read .Is a directory", Vocabulary.load, tmp_path)


BPE, JSON = "vocab_4.bpe", "encoder_bpe_4.json"


@pytest.mark.parametrize("case", [
    (BPE, b"0.2", b"0.1", "line 1: found '#version: 0.1'"),
    (BPE, b"ab c</w>\n", b"ab c</w>", "line 5: .*cut short"),
    (BPE, b"a bc</w>", b"a b c", "line 3: found 'a b c', .*two"),
    (BPE, b"a bc", b"b c</w>\na bc", "line 3: .* line 2 already"),
    (BPE, b"a bc", b"b b\na bc", "line 3: .*'bb' has no id"),
    (BPE, b"b c</w>\n", b"", "line 2: 'bc</w>' is neither a char.*missing"),
    (BPE, b"a b\nab c</w>\n", b"", r"token 'ab' \(id 9\) is the output of no merge"),
    (BPE, b"ab c</w>\n", b"ab c</w>\n\xff\n", r"byte \d+ is not UTF-8"),
    (BPE, b"", b"", r"found 1 files encoder_bpe_\*\.json and 0 files vocab_\*\.bpe"),
    (JSON, b'"b": 2', b'"b": 1', "id 1 is the id of both 'a' and 'b'"),
    (JSON, b'"b": 2', b'"b": 99', "'b' has id 99, expected a number from 0 to 10"),
    (JSON, b'"b": 2', b'"a": 2', "token 'a' occurs twice"),
    (JSON, rb'"\n</w>"', b'"z"', "line break's token .* is missing"),
    (JSON, b"}", b",\n", "line 2: not JSON"), (JSON, b"{", b"[" * 200_000, "nested too deeply"),
    (JSON, b'"b": 2', b'"b": ' + b"9" * 5_000, "number too long"),
    (JSON, b'"b": 2', rb'"\ud800": 2', "has half of a character"),
])  # fmt: skip
def test_broken_files_are_refused(case: tuple[str, bytes, bytes, str], tmp_path: Path) -> None:
    file, old, new, message = case
    Vocabulary.from_merges(["a", "b", "c"], MERGES).save(tmp_path)
    path = tmp_path / file
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1)) if old else path.unlink()
    said = refuses(message, Vocabulary.load, tmp_path)
    assert not old or str(path) in said or "ab" in message
