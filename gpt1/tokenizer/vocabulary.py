"""The vocabulary: tokens, ids and merges, in the form OpenAI published, and its files."""

from __future__ import annotations

import hashlib
import json
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
_AGAIN = "download both files again"

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
        text = json.dumps(
            [self.tokens, [list(pair) for pair in self.merges]], ensure_ascii=True,
            separators=(",", ":"),
        )
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
        tokens = read_encoder(encoder)
        pairs = read_merges(merges, HEADER)
        refuse_disagreement(encoder, tokens, merges, pairs, (UNKNOWN_TOKEN, NEWLINE_TOKEN))
        return cls(tokens, pairs)

    @classmethod
    def from_tokenizer(cls, path: Path) -> Vocabulary:
        """The vocabulary inside a `tokenizer.json`, with the same checks."""
        tokens, pairs = read_tokenizer(path)
        refuse_disagreement(path, tokens, path, pairs, (UNKNOWN_TOKEN, NEWLINE_TOKEN))
        return cls(tokens, pairs)

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write both files, named by the number of merges, and return their paths."""
        encoder_name, merges_name = self.file_names
        folder.mkdir(parents=True, exist_ok=True)
        (folder / encoder_name).write_bytes(self.encoder_bytes())
        (folder / merges_name).write_bytes(self.merges_bytes())
        return folder / encoder_name, folder / merges_name

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`: words separated by spaces, line breaks without spaces around them.

        Lower case and the spaces of standardise stay: encoding loses what they replaced. ValueError
        for an id outside.
        """
        parts: list[str] = []
        for number in ids:
            if not 0 <= number < self.size:
                raise ValueError(f"id {number} is not in the vocabulary of {self.size} tokens")
            parts.append(self.tokens[number])
        text = "".join(parts).replace(END, " ")
        return text.replace("\n ", "\n").replace(" \n", "\n").strip(" ")

    @property
    def file_names(self) -> tuple[str, str]:
        """The two files' names in the published form."""
        return f"encoder_bpe_{len(self.merges)}.json", f"vocab_{len(self.merges)}.bpe"

    def encoder_bytes(self) -> bytes:
        """The JSON object of token to id, in the order of the ids."""
        return json.dumps(self.ids, ensure_ascii=True).encode("ascii")

    def merges_bytes(self) -> bytes:
        """The header and a line of two fields for each merge, with a newline at the end."""
        return "".join(
            f"{line}\n"
            for line in [HEADER, *(f"{first} {second}" for first, second in self.merges)]
        ).encode()

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

        model = BPE(
            vocab=self.ids, merges=self.merges, unk_token=UNKNOWN_TOKEN, end_of_word_suffix=END
        )
        tokenizer = Tokenizer(model)
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


def read_encoder(path: Path) -> list[str]:
    """The tokens of `encoder_bpe_N.json` by id. Ids must be 0 … n - 1, each once."""
    try:
        pairs = json.loads(_text(path), object_pairs_hook=lambda found: found)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not JSON ({error.msg}); {_AGAIN}."
        ) from error
    except RecursionError as error:
        raise UserError(f"{path}: not JSON ({error}); {_AGAIN}.") from error
    if not isinstance(pairs, list) or not all(isinstance(item, tuple) for item in pairs):
        raise UserError(f"{path}: expected one JSON object of token to id; {_AGAIN}.")
    return _by_id(path, pairs)


def read_tokenizer(path: Path) -> tuple[list[str], list[Merge]]:
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
        raise UserError(
            f"{path}: not a tokenizer of the package tokenizers ({error!r}); {_AGAIN}."
        ) from error
    if kind != ("BPE", END):
        raise UserError(
            f"{path}: found {kind[0]} with words that end in {kind[1]!r}, expected BPE with"
            f" {END!r}: not GPT-1's."
        )
    for number, pair in enumerate(split, start=1):
        if len(pair) != 2 or not all(isinstance(piece, str) and piece for piece in pair):
            raise UserError(f"{path}: merge {number} is {pair!r}, expected two pieces; {_AGAIN}.")
    if len(set(split)) < len(split):
        raise UserError(f"{path}: a merge occurs twice; {_AGAIN}.")
    return _by_id(path, pairs), [(first, second) for first, second in split]


def _by_id(path: Path, pairs: Sequence[tuple[str, object]]) -> list[str]:
    tokens: dict[int, str] = {}
    seen: set[str] = set()
    for token, number in pairs:
        if type(number) is not int or not 0 <= number < len(pairs):
            raise UserError(
                f"{path}: token {token!r} has id {number!r}, expected a number from 0 to"
                f" {len(pairs) - 1}; {_AGAIN}."
            )
        if number in tokens:
            raise UserError(
                f"{path}: id {number} is the id of both {tokens[number]!r} and {token!r}; {_AGAIN}."
            )
        if token in seen:
            raise UserError(
                f"{path}: token {token!r} occurs twice (the second time with id {number});"
                f" {_AGAIN}."
            )
        tokens[number] = token
        seen.add(token)
    return [tokens[number] for number in range(len(tokens))]


def read_merges(path: Path, header: str) -> list[Merge]:
    """The merges of `vocab_N.bpe`: the header, then lines of two fields separated by one space,
    the last line ended too.
    """
    lines = _text(path).split("\n")
    if lines[0] != header:
        raise UserError(f"{path}, line 1: found {lines[0][:40]!r}, expected {header!r}; {_AGAIN}.")
    if lines[-1] != "":
        raise UserError(
            f"{path}, line {len(lines)}: the file does not end with a newline, so it was cut short;"
            f" {_AGAIN}."
        )
    merges: dict[Merge, int] = {}
    for number, line in enumerate(lines[1:-1], start=2):
        fields = line.split(" ")
        if len(fields) != 2 or not all(fields):
            raise UserError(
                f"{path}, line {number}: found {line[:40]!r}, expected two fields separated by one"
                f" space; {_AGAIN}."
            )
        pair = (fields[0], fields[1])
        if pair in merges:
            raise UserError(
                f"{path}, line {number}: the merge {line!r} is on line {merges[pair]} already;"
                f" {_AGAIN}."
            )
        merges[pair] = number
    return list(merges)


def refuse_disagreement(
    encoder: Path, tokens: Sequence[str], merges: Path, pairs: Sequence[Merge],
    named: tuple[str, str],
) -> None:
    """Refuse what does not fit together.

    Each merge's output must have an id, each member of a merge must be a character or an earlier
    merge's output, and each id must be a character, a merge's output or one of the two `named`
    tokens.
    """
    known = set(tokens)
    outputs: set[str] = set()
    for number, (first, second) in enumerate(pairs, start=2):
        for piece in (first, second):
            if not _single(piece) and piece not in outputs:
                raise UserError(
                    f"{merges}, line {number}: {piece!r} is neither a character nor the output of a"
                    f" merge above: a line is missing or out of order; {_AGAIN}."
                )
        outputs.add(first + second)
        if first + second not in known:
            raise UserError(
                f"{merges}, line {number}: the merge's output {first + second!r} has no id in"
                f" {encoder.name}; {_AGAIN}."
            )
    unknown, newline = named
    if not tokens or tokens[0] != unknown:
        raise UserError(
            f"{encoder}: id 0 is {tokens[0] if tokens else None!r}, expected {unknown!r}; {_AGAIN}."
        )
    if newline not in known:
        raise UserError(f"{encoder}: the line break's token {newline!r} is missing; {_AGAIN}.")
    for number, token in enumerate(tokens):
        if not _single(token) and token not in outputs and token not in named:
            raise UserError(
                f"{encoder}: token {token!r} (id {number}) is the output of no merge in"
                f" {merges.name}; {_AGAIN}."
            )


def _single(token: str) -> bool:
    """Whether a token is one character, with or without the end mark."""
    return len(token.removesuffix(END)) == 1


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a vocabulary's file.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; {_AGAIN}.") from error
