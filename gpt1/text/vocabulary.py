"""The vocabulary: tokens, ids and merges, in the form OpenAI published."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from gpt1.text.bpe import END, Merge
from gpt1.text.published import vocabulary_files
from gpt1.text.vocabulary_files import (
    read_encoder,
    read_merges,
    read_tokenizer,
    refuse_disagreement,
)

UNKNOWN = 0
UNKNOWN_TOKEN = "<unk>"
NEWLINE_TOKEN = "\n" + END
HEADER = "#version: 0.2"


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
