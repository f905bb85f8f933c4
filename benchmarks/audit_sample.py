"""Fifty real books drawn with a fixed seed: what each cleaning rule did to each, before and after,
for a person to judge.

`python benchmarks/audit_sample.py FOLDER [--books 50] [--seed 2018] [--places 3]` reads the .txt
files under FOLDER and prints; the verdicts that were made on it stand in
benchmarks/results/cleaning.md. Exit status 1 when FOLDER holds fewer books than asked for.
"""

from __future__ import annotations

import argparse
import sys
from hashlib import sha256
from pathlib import Path

from gpt1.corpus.clean import BOOK_RULES, TEXT_RULES, clean
from gpt1.corpus.document import Document

# What these do everywhere is shown at a few places; the others are shown whole, each strike.
_DENSE = {
    "line_ends", "ftfy", "invisible", "emphasis", "headings", "join_lines", "scene_breaks",
    "footnotes", "page_marks", "illustrations",
}
_LONGEST = 1_600


def drawn(folder: Path, books: int, seed: int) -> list[Path]:
    """The files whose names have the smallest hashes with the seed."""
    files = sorted(folder.rglob("*.txt"))
    return sorted(
        files, key=lambda file: sha256(f"{seed}:{file.relative_to(folder)}".encode()).digest()
    )[:books]


def show(name: str, text: str, places: int) -> None:
    """Print a book's head and tail after cleaning, and what each rule did on the way."""
    cleaned = clean(Document(name, name, None, name, text))
    print(
        f"\n{'=' * 100}\n{name}: {cleaned.before} -> {cleaned.after}; {cleaned.rejected or 'kept'}"
        f" {cleaned.evidence or ''}"
    )
    current = text
    for rule in TEXT_RULES:
        done = rule.apply(current)
        if done.text == current:
            continue
        print(f"--- {rule.name}: {done.strikes} strikes, {done.change}")
        shown = (
            done.places[:: max(1, len(done.places) // places)][:places]
            if rule.name in _DENSE
            else done.places
        )
        for before, after in shown:
            print(f"  BEFORE {_short(before)!r}\n  AFTER  {_short(after)!r}")
        current = done.text
    for rule in BOOK_RULES:
        print(f"--- {rule.name}: {rule.judge(current, rule.default) or 'keeps'}")
    print(f"--- HEAD {current[:700]!r}\n--- TAIL {current[-300:]!r}")


def _short(text: str) -> str:
    return (
        text
        if len(text) <= _LONGEST
        else f"{text[: _LONGEST // 2]} [{len(text)}] {text[-_LONGEST // 2 :]}"
    )


def main() -> int:
    """Print the sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--books", type=int, default=50)
    parser.add_argument("--seed", type=int, default=2018)
    parser.add_argument("--places", type=int, default=3)
    given = parser.parse_args()
    files = drawn(given.folder, given.books, given.seed)
    for file in files:
        show(str(file.relative_to(given.folder)), file.read_bytes().decode("utf-8"), given.places)
    if len(files) < given.books:
        print(f"{given.folder}: {len(files)} books; expected {given.books}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
