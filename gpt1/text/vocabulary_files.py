"""Reading a vocabulary's two files and refusing what does not fit together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from gpt1.errors import UserError
from gpt1.text.bpe import END, Merge

_AGAIN = "download both files again"


def read_encoder(path: Path) -> list[str]:
    """The tokens of `encoder_bpe_N.json` by id. Ids must be 0 … n - 1, each once."""
    try:
        pairs = json.loads(_text(path), object_pairs_hook=lambda found: found)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not JSON ({error.msg}); {_AGAIN}."
        ) from error
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
