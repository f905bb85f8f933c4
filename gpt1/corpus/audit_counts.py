"""What one part of the corpus holds of the text that is trained on: sizes, sentence lengths,
words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt1.corpus.document import Document
from gpt1.corpus.text_stats import NONE, Size, sentences

TRAIN, HELD_OUT = "train", "held_out"
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


@dataclass
class Counts:
    """Of the texts trained on: `books`, their `size`, `lengths` (words in a sentence -> sentences),
    `words` in lower case.
    """

    books: int = 0
    size: Size = NONE
    lengths: Counter[int] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)

    def add(self, text: str) -> None:
        """Count one text."""
        self.books += 1
        self.size += Size.of(text)
        self.lengths.update(len(sentence.split()) for sentence in sentences(text))
        self.words.update(_WORD.findall(text.lower()))


def count(
    books: Iterable[Document], rows: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, int]
) -> Counts:
    """Count the training books of a part, each up to its unseen tail.

    `rows`: the books' rows of split.parquet; `sizes`: their bytes as the cleaner recorded them.
    RuntimeError when a text is not of the size recorded: the audit would not be one of these texts.
    """
    counts = Counts()
    for book in books:
        found = len(book.text.encode("utf-8", "surrogatepass"))
        if found != sizes[book.id]:
            raise RuntimeError(f"{book.id}: {found} bytes; the cleaner recorded {sizes[book.id]}")
        if rows[book.id]["set"] == TRAIN:
            counts.add(book.text[: rows[book.id].get("tail_start")])
    return counts
