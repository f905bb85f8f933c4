"""The vocabulary: tokens, ids and merges, in the form OpenAI published, and its files."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from gpt1.errors import UserError
from gpt1.tokenizer.bpe import END, Merge

UNKNOWN = 0
UNKNOWN_TOKEN = "<unk>"
NEWLINE_TOKEN = "\n" + END
HEADER = "#version: 0.2"
HUB = "hf://"
_FORMS = (("encoder_bpe_*.json", "vocab_*.bpe"), ("vocab.json", "merges.txt"))
_HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair, which no UTF-8 can hold


class Vocabulary:
    """`tokens[id]` is a token's text, `ids` the way back, `merges` the pairs in the order of
    their rank.
    """

    def __init__(self, tokens: Sequence[str], merges: Sequence[Merge]) -> None:
        self.tokens = list(tokens)
        self.merges = list(merges)
        self.ids = {token: number for number, token in enumerate(self.tokens)}

    @property
    def size(self) -> int:
        """The number of tokens: 40,478 for the published vocabulary."""
        return len(self.tokens)

    @cached_property
    def sha256(self) -> str:
        """A digest of tokens and merges, independent of how the files spell them."""
        text = json.dumps([self.tokens, self.merges], separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    @classmethod
    def from_merges(cls, characters: Sequence[str], merges: Sequence[Merge]) -> Vocabulary:
        """`<unk>`, the characters, the same with `</w>`, the merges' outputs in order, the line
        break.

        Two merges with one output have one id.
        """
        final = [character + END for character in characters]
        outputs = [first + second for first, second in merges]
        tokens = dict.fromkeys([UNKNOWN_TOKEN, *characters, *final, *outputs])
        tokens.pop(NEWLINE_TOKEN, None)
        return cls([*tokens, NEWLINE_TOKEN], merges)

    @classmethod
    def load(cls, folder: Path) -> Vocabulary:
        """The vocabulary in `folder`, as `vocabulary_files` finds it.

        UserError names the file and what is wrong.
        """
        return cls.read(*vocabulary_files(str(folder)))

    @classmethod
    def read(cls, encoder: Path, merges: Path) -> Vocabulary:
        """The vocabulary of two files, checked against one another."""
        tokens, pairs = _read_encoder(encoder), _read_merges(merges)
        _refuse_disagreement(encoder, tokens, merges, pairs)
        return cls(tokens, pairs)

    @classmethod
    def from_tokenizer(cls, path: Path) -> Vocabulary:
        """The vocabulary inside a `tokenizer.json`, with the same checks."""
        tokens, pairs = _read_tokenizer(path)
        _refuse_disagreement(path, tokens, path, pairs)
        return cls(tokens, pairs)

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write both files, named by the number of merges, and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            (folder / name).write_bytes(content)
        encoder, merges = self.file_names
        return folder / encoder, folder / merges

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`: words separated by spaces, line breaks without spaces around them.

        Lower case and the spaces of standardize stay: encoding loses what they replaced. ValueError
        for an id outside.
        """
        parts: list[str] = []
        for number in ids:
            if not 0 <= number < self.size:
                raise ValueError(f"id {number} is not in the vocabulary of {self.size} tokens")
            parts.append(self.tokens[number])
        text = "".join(parts).replace(END, " ")
        return text.replace("\n ", "\n").replace(" \n", "\n").strip(" ")

    def files(self) -> dict[str, bytes]:
        """The contents of the two files by name."""
        return dict(zip(self.file_names, (self.encoder_bytes(), self.merges_bytes()), strict=True))

    @property
    def file_names(self) -> tuple[str, str]:
        """The two files' names in the published form."""
        return f"encoder_bpe_{len(self.merges)}.json", f"vocab_{len(self.merges)}.bpe"

    def encoder_bytes(self) -> bytes:
        """The JSON object of token to id, in the order of the ids."""
        return json.dumps(self.ids, ensure_ascii=True).encode("ascii")

    def merges_bytes(self) -> bytes:
        """The header and a line of two fields for each merge, with a newline at the end."""
        return "\n".join([HEADER, *map(" ".join, self.merges), ""]).encode()

    def tokenizer_bytes(self) -> bytes | None:
        """`tokenizer.json` of the BPE step alone, for the package `tokenizers`; None where it could
        not compute our ids.

        It takes our words joined by single spaces (a line break is the word `\\n`) and cuts at
        spaces only: raw text would need ftfy, the regexes and spaCy first. It cannot be made when a
        merge has a member without an id, which our own encoder allows: a character too rare for the
        alphabet.
        """
        if any(piece not in self.ids for pair in self.merges for piece in pair):
            return None
        from tokenizers import Tokenizer
        from tokenizers.decoders import BPEDecoder
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import Split

        named = {"unk_token": UNKNOWN_TOKEN, "end_of_word_suffix": END}
        tokenizer = Tokenizer(BPE(vocab=self.ids, merges=self.merges, **named))
        tokenizer.pre_tokenizer = Split(" ", "removed")
        tokenizer.decoder = BPEDecoder(suffix=END)
        text: str = tokenizer.to_str(pretty=False)
        return text.encode()


def alphabet(counts: Mapping[str, int], limit: int) -> list[str]:
    """The characters of the counted words by falling frequency, ties by code point, at most
    `limit`.
    """
    frequency: Counter[str] = Counter()
    for word, count in counts.items():
        for character in word:
            frequency[character] += count
    return sorted(frequency, key=lambda character: (-frequency[character], character))[:limit]


# Where the files are


def vocabulary_files(source: str) -> tuple[Path, Path]:
    """The file of ids and the file of merges of a folder, or of `hf://owner/name` (`@revision` may
    follow).

    A folder holds `encoder_bpe_N.json` with `vocab_N.bpe`, or, as on the hub, `vocab.json` with
    `merges.txt`: the same content. UserError when they are missing, ambiguous or cannot be had.
    """
    return _from_hub(source) if source.startswith(HUB) else _from_folder(Path(source).expanduser())


def _from_folder(folder: Path) -> tuple[Path, Path]:
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; expected one with the two files of a vocabulary."
        )
    for pair in _FORMS:
        encoders, merges = (sorted(folder.glob(pattern)) for pattern in pair)
        if len(encoders) == len(merges) == 1:
            return encoders[0], merges[0]
        if encoders or merges:
            raise UserError(
                f"{folder}: found {len(encoders)} files {pair[0]} and {len(merges)} files"
                f" {pair[1]}, expected exactly one of each. Keep the two that belong together."
            )
    raise UserError(
        f"{folder}: no vocabulary in it; expected {' with '.join(_FORMS[0])}, or"
        f" {' with '.join(_FORMS[1])} as on the hub."
    )


def _from_hub(source: str) -> tuple[Path, Path]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = source.removeprefix(HUB).partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(
            f"{source}: expected {HUB}owner/name, such as {HUB}openai-community/openai-gpt."
        )
    try:
        encoder, merges = (
            Path(hf_hub_download(name, file, revision=revision or None)) for file in _FORMS[1]
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{source}: its {' and '.join(_FORMS[1])} could not be downloaded"
            f" ({type(error).__name__}: {detail}); check the name and the network, or download both"
            " files and give their folder."
        ) from error
    return encoder, merges


# Reading the files


def _damaged(where: object, problem: str) -> UserError:
    """For a file, or a line of one, that is not as it was published."""
    return UserError(f"{where}: {problem}; download both files again.")


def _read_encoder(path: Path) -> list[str]:
    """The tokens of `encoder_bpe_N.json` by id. Ids must be 0 … n - 1, each once."""
    try:
        pairs = json.loads(_text(path), object_pairs_hook=lambda found: found)
    except json.JSONDecodeError as error:
        raise _damaged(f"{path}, line {error.lineno}", f"not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        how = "nested too deeply or has a number too long"
        raise _damaged(path, f"{how} for a table of tokens") from error
    if not isinstance(pairs, list) or not all(isinstance(item, tuple) for item in pairs):
        raise _damaged(path, "expected one JSON object of token to id")
    return _by_id(path, pairs)


def _read_tokenizer(path: Path) -> tuple[list[str], list[Merge]]:
    """The tokens by id and the merges of a `tokenizer.json` of the package `tokenizers`, as
    transformers 5 saves it alone.

    UserError unless it holds a BPE whose words end in `</w>`. Everything but the vocabulary and the
    merges is ignored.
    """
    try:
        model = json.loads(_text(path))["model"]
        kind = model["type"], model["end_of_word_suffix"]
        pairs, merges = list(model["vocab"].items()), model["merges"]
        split = [tuple(one.split(" ")) if isinstance(one, str) else tuple(one) for one in merges]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"not a tokenizer of the package tokenizers ({error!r})"
        raise _damaged(path, problem) from error
    if kind != ("BPE", END):
        raise UserError(
            f"{path}: found {kind[0]} with words that end in {kind[1]!r}, expected BPE with"
            f" {END!r}: not GPT-1's."
        )
    for number, pair in enumerate(split, start=1):
        if len(pair) != 2 or not all(isinstance(piece, str) and piece for piece in pair):
            raise _damaged(path, f"merge {number} is {pair!r}, expected two pieces")
    if len(set(split)) < len(split):
        raise _damaged(path, "a merge occurs twice")
    return _by_id(path, pairs), [(first, second) for first, second in split]


def _by_id(path: Path, pairs: Sequence[tuple[str, object]]) -> list[str]:
    tokens: dict[int, str] = {}
    for token, number in pairs:
        if type(number) is not int or not 0 <= number < len(pairs):
            expected = f"expected a number from 0 to {len(pairs) - 1}"
            raise _damaged(path, f"token {token!r} has id {number!r}, {expected}")
        if _HALF.search(token):
            raise _damaged(path, f"token {token!r} has half of a character")
        if number in tokens:
            both = f"{tokens[number]!r} and {token!r}"
            raise _damaged(path, f"id {number} is the id of both {both}")
        tokens[number] = token
    for token, times in Counter(tokens.values()).most_common(1):
        if times > 1:
            raise _damaged(path, f"token {token!r} occurs twice")
    return [tokens[number] for number in range(len(tokens))]


def _read_merges(path: Path) -> list[Merge]:
    """The merges of `vocab_N.bpe`: the header, then lines of two fields separated by one space,
    the last line ended too.
    """
    lines = _text(path).split("\n")
    if lines[0] != HEADER:
        raise _damaged(f"{path}, line 1", f"found {lines[0][:40]!r}, expected {HEADER!r}")
    if lines[-1] != "":
        problem = "the file does not end with a newline, so it was cut short"
        raise _damaged(f"{path}, line {len(lines)}", problem)
    merges: dict[Merge, int] = {}
    for number, line in enumerate(lines[1:-1], start=2):
        first, _, second = line.partition(" ")
        if not first or not second or " " in second:
            problem = f"found {line[:40]!r}, expected two fields separated by one space"
            raise _damaged(f"{path}, line {number}", problem)
        before = merges.setdefault((first, second), number)
        if before != number:
            problem = f"the merge {line!r} is on line {before} already"
            raise _damaged(f"{path}, line {number}", problem)
    return list(merges)


def _refuse_disagreement(
    encoder: Path, tokens: Sequence[str], merges: Path, pairs: Sequence[Merge]
) -> None:
    """UserError unless each merge's output has an id, each member of a merge is a character or an
    earlier merge's output, and each id is a character, a merge's output, `<unk>` or the line break.
    """
    known = set(tokens)
    outputs: set[str] = set()
    for number, (first, second) in enumerate(pairs, start=2):
        for piece in (first, second):
            if not _single(piece) and piece not in outputs:
                problem = "neither a character nor the output of a merge above"
                raise _damaged(
                    f"{merges}, line {number}",
                    f"{piece!r} is {problem}: a line is missing or out of order",
                )
        outputs.add(first + second)
        if first + second not in known:
            problem = f"the merge's output {first + second!r} has no id in {encoder.name}"
            raise _damaged(f"{merges}, line {number}", problem)
    if tokens[:1] != [UNKNOWN_TOKEN]:
        raise _damaged(encoder, f"id 0 is {tokens[:1]}, expected {UNKNOWN_TOKEN!r}")
    if NEWLINE_TOKEN not in known:
        raise _damaged(encoder, f"the line break's token {NEWLINE_TOKEN!r} is missing")
    outputs |= {UNKNOWN_TOKEN, NEWLINE_TOKEN}
    for number, token in enumerate(tokens):
        if not _single(token) and token not in outputs:
            problem = f"token {token!r} (id {number}) is the output of no merge in {merges.name}"
            raise _damaged(encoder, problem)


def _single(token: str) -> bool:
    """Whether a token is one character, with or without the end mark."""
    return len(token.removesuffix(END)) == 1


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
        raise UserError(f"{path}: {found}; expected a vocabulary's file.") from error
    except UnicodeDecodeError as error:
        raise _damaged(path, f"byte {error.start} is not UTF-8") from error
