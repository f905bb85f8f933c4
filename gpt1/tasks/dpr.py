"""Definite pronoun resolution (the paper's DPRD): blocks of sentence, pronoun, two candidates,
answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from gpt1.errors import UserError
from gpt1.tasks.io import Example


def read_dpr(path: Path, text: str) -> Iterator[Example]:
    """One example a block: the texts before and after the pronoun, the two candidates as
    choices.
    """
    blocks: list[tuple[int, list[str]]] = []
    fresh = True
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            fresh = True
            continue
        if fresh:
            blocks.append((number, []))
            fresh = False
        blocks[-1][1].append(line.strip())
    for index, (number, lines) in enumerate(blocks):
        yield _example(f"{path.stem}-{index}", lines, f"{path}, row {number}")


def _example(name: str, lines: list[str], where: str) -> Example:
    if len(lines) != 4:
        raise UserError(
            f"{where}: a block of {len(lines)} lines; expected sentence, pronoun, candidates,"
            " answer"
        )
    sentence, pronoun, listed, answer = lines
    candidates = tuple(candidate.strip() for candidate in listed.split(","))
    folded = [candidate.lower() for candidate in candidates]
    if len(candidates) != 2 or answer.lower() not in folded:
        raise UserError(
            f"{where}: the answer is {answer!r}; expected one of the two candidates {listed!r}"
        )
    at = _pronoun_at(sentence, pronoun, candidates)
    if at is None:
        raise UserError(f"{where}: the pronoun {pronoun!r} does not occur in {sentence!r}")
    return Example(
        name, (sentence[: at[0]].strip(), sentence[at[1] :].strip()), candidates,
        folded.index(answer.lower()),
    )


def _pronoun_at(sentence: str, pronoun: str, candidates: tuple[str, ...]) -> tuple[int, int] | None:
    """The first occurrence after both candidates were named, else the last one: the files do not
    mark which one is meant.
    """
    found = [
        match.span() for match in re.finditer(rf"\b{re.escape(pronoun)}\b", sentence, re.IGNORECASE)
    ]
    if not found:
        return None
    named = max(sentence.lower().find(candidate.lower()) for candidate in candidates)
    return next((span for span in found if span[0] > named), found[-1])
