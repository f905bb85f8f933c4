"""GPT-1's tokenizer for `transformers`: ftfy, OpenAI's `standardize`, spaCy, lower case, BPE.

`gpt1 export hf` copies this file into the folder it writes, where
`AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)` runs it. So it imports nothing of
the package `gpt1`, and takes each step the plain way, over the complete text. Its ids equal those
of `gpt1.tokenizer.tokenizer.Tokenizer` with the versions of ftfy and spaCy named below.
"""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizer

try:
    import ftfy
    import spacy
except ImportError as error:
    raise ImportError(
        f"GPT1Tokenizer needs ftfy and spaCy ({error}); without them its ids would be wrong. "
        "Install both: pip install ftfy==6.3.1 spacy==3.8.18"
    ) from error

UNKNOWN, UNKNOWN_TOKEN = 0, "<unk>"
END = "</w>"
HEADER = "#version: 0.2"
CACHED_WORDS = 1_000_000
# The language model saw no special token; `<unk>` takes the places that transformers and
# evaluation harnesses want filled. Text that spells it is split like any other text.
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), UNKNOWN_TOKEN),
    "split_special_tokens": True,
    "special_tokens_pattern": "none",  # early releases of transformers 5 would add [CLS] and [SEP]
    "clean_up_tokenization_spaces": False,
}
_PLAIN = (("—", "-"), ("–", "-"), ("―", "-"), ("…", "..."), ("´", "'"))
# OpenAI's pattern is no raw string, so that a backslash is not set apart.
_SET_APART = re.compile(r"""([-~!";?+,)(/*\[\]}{|_])\1*""")


class GPT1Tokenizer(PreTrainedTokenizer):
    """Ids of English text as GPT-1 was trained on it; a piece outside the vocabulary is 0."""

    vocab_files_names: dict[str, str] = {  # noqa: RUF012
        "vocab_file": "encoder_bpe_gpt1.json",
        "merges_file": "vocab_gpt1.bpe",
    }
    # No token types: the model would embed them as words.
    model_input_names: list[str] = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, vocab_file: str | None, merges_file: str | None, **kwargs: Any) -> None:
        if not vocab_file or not merges_file:
            names = " and ".join(self.vocab_files_names.values())
            raise ValueError(
                f"GPT1Tokenizer: expected {names} in the folder; export the model again"
            )
        self._ids: dict[str, int] = json.loads(Path(vocab_file).read_text(encoding="utf-8"))
        self._tokens = {number: token for token, number in self._ids.items()}
        merges = Path(merges_file).read_text(encoding="utf-8").split("\n")[1:-1]
        self._ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(merges)}
        self._cache: dict[str, list[str]] = {}
        super().__init__(**{**DEFAULTS, **kwargs})

    @property
    def vocab_size(self) -> int:
        """The number of tokens without those a user has added."""
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        """Token to id, with the tokens a user has added."""
        return {**self._ids, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:  # noqa: ARG002
        words = english()(standardize(ftfy.fix_text(text)))
        return [piece for word in words for piece in self._cut(word.text.lower())]

    def _cut(self, word: str) -> list[str]:
        """The pieces of a word: the pair of the lowest rank is joined first, wherever it occurs."""
        if word in self._cache:
            return self._cache[word]
        # spaCy returns a line break with the space after it.
        parts = ["\n" + END] if word == "\n " else [*word[:-1], word[-1] + END]
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == best:
                    joined[-1] += part
                else:
                    joined.append(part)
            parts = joined
        if len(self._cache) >= CACHED_WORDS:
            self._cache.clear()
        self._cache[word] = parts
        return parts

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, UNKNOWN)

    def _convert_id_to_token(self, index: int) -> str:
        if index not in self._tokens:
            raise ValueError(f"id {index} is not in the vocabulary of {self.vocab_size} tokens")
        return self._tokens[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Words separated by spaces, line breaks without; what encoding replaced stays replaced."""
        text = "".join(tokens).replace(END, " ")
        return text.replace("\n ", "\n").replace(" \n", "\n").strip(" ")

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, str]:
        """Write the two files under the names that loading expects, and return their paths."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        names = self.vocab_files_names
        vocab, merges = (Path(save_directory, prefix + name) for name in names.values())
        vocab.write_text(json.dumps(self._ids), encoding="utf-8")
        lines = [HEADER, *(" ".join(pair) for pair in self._ranks)]
        merges.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(vocab), str(merges)


@cache
def english() -> Any:
    """spaCy's English rules and exceptions, which need no download."""
    return spacy.blank("en").tokenizer


def standardize(text: str) -> str:
    """Make dashes and ellipses plain, set punctuation apart, collapse white space, cut what has
    more than a thousand characters.
    """
    for fancy, plain in _PLAIN:
        text = text.replace(fancy, plain)
    text = _SET_APART.sub(lambda run: f" {run.group()} ", text)
    text = re.sub(r"\s*\n\s*", " \n ", text)
    return re.sub(r"(\S{1000})(?=\S)", r"\1 ", re.sub(r"[^\S\n]+", " ", text).strip())
