"""A slow, literal tokenizer that imports nothing of `gpt1` (docs/explanation/tokenization.md).

It follows OpenAI's `text_utils.py` step by step, over complete texts.
"""

import functools
import json
import re
from pathlib import Path

import ftfy
import spacy

RUNS = r"(-+|~+|!+|\"+|;+|\?+|\++|,+|\)+|\(+|/+|\*+|\[+|\]+|}+|{+|\|+|_+)"


def standardize(text: str) -> str:
    for odd, plain in (("—", "-"), ("–", "-"), ("―", "-"), ("…", "..."), ("´", "'")):
        text = text.replace(odd, plain)
    text = re.sub(RUNS, r" \1 ", text)
    text = re.sub(r"\s*\n\s*", " \n ", text)
    text = re.sub(r"[^\S\n]+", " ", text)
    # Ours, not OpenAI's: no word has more than a thousand characters.
    return re.sub(r"(\S{1000})(?=\S)", r"\1 ", text.strip())


def adjacent(word: tuple[str, ...]) -> set[tuple[str, str]]:
    return {(word[i], word[i + 1]) for i in range(len(word) - 1)}


class StraightReading:
    def __init__(self, encoder: Path, merges: Path) -> None:
        self.encoder: dict[str, int] = json.loads(encoder.read_text(encoding="utf-8"))
        lines = merges.read_text(encoding="utf-8").split("\n")[1:-1]
        self.ranks = {tuple(line.split()): rank for rank, line in enumerate(lines)}
        self.nlp = spacy.blank("en")
        self.nlp.max_length = 1 << 30
        self.bpe = functools.cache(self.cut)  # each word once, as in OpenAI's code

    def cut(self, token: str) -> list[str]:
        word = (*tuple(token[:-1]), token[-1] + "</w>")
        while pairs := adjacent(word):
            best = min(pairs, key=lambda pair: self.ranks.get(pair, float("inf")))
            if best not in self.ranks:
                break
            merged: list[str] = []
            i = 0
            while i < len(word):
                if i + 1 < len(word) and (word[i], word[i + 1]) == best:
                    merged.append(word[i] + word[i + 1])
                    i += 2
                else:
                    merged.append(word[i])
                    i += 1
            word = tuple(merged)
        if " ".join(word) == "\n  </w>":
            return ["\n</w>"]
        return list(word)

    def words(self, text: str) -> list[str]:
        """The lower-cased tokens; spaCy's newline + space as it is."""
        return [token.text.lower() for token in self.nlp(standardize(ftfy.fix_text(text)))]

    def ids(self, text: str) -> list[int]:
        return [self.encoder.get(piece, 0) for word in self.words(text) for piece in self.bpe(word)]
