"""The index of n-grams behind `gpt1 trace --text`, on real books: time, memory and size, and what
it finds against a search by comparing every place.

    python benchmarks/trace.py            all shared books (a hundred million tokens), minutes
    python benchmarks/trace.py --quick    8 MB of them, under a minute

One process. The books are tokenized first, which is not measured; the last tenth of them is held
out. 1,000 random spans of the others, of 8 to 40 tokens, are searched for, and 1,000 spans of 8
tokens of the held-out books that the others do not have. Exit status 1 when a place is missed or
made up, or when building takes more than 1.2 s of processor time a million tokens, or 4 GB. The
last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gpt1.data.ngram_index import LENGTH, NgramIndex  # noqa: E402
from gpt1.data.shards import DocumentSpan, Ids, Shards  # noqa: E402
from gpt1.tokenizer.tokenizer import Tokenizer  # noqa: E402
from tests.gpt1.real_books import embedded, learned_vocabulary  # noqa: E402

SPANS = 1000
MOST_SECONDS, MOST_MEMORY = 1.2, 4e9  # a million tokens; bytes


def main() -> int:
    """Run, print what was measured, one JSON object on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="8 MB of text, under a minute")
    arguments = parser.parse_args()
    books = tokenized(8_000_000 if arguments.quick else 1 << 40)
    train, held_out = books[: -(len(books) // 10)], books[-(len(books) // 10) :]
    spans = [DocumentSpan(str(n), "", None, "", "", "train", 0, len(ids), "")
             for n, ids in enumerate(train)]  # fmt: skip
    shards, draw = Shards(train, spans, ""), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "ngrams")
        built = measure(shards, file)
        index, everything = NgramIndex(shards, file), joined(train)
        counts = np.bincount(everything, minlength=1 << 16)
        missed, seconds = 0, 0.0
        for ids in random_spans(train, draw, 8, 40):
            began = time.perf_counter()
            found = [one.places for one in index.matches(ids.tolist())]
            seconds += time.perf_counter() - began
            missed += found != [places(everything, counts, train, ids)]
        made_up = absent = 0
        for ids in random_spans(held_out, draw, LENGTH, LENGTH, count=20 * SPANS):
            if absent == SPANS:
                break
            if not places(everything, counts, train, ids):
                absent += 1
                made_up += index.matches(ids.tolist()) != []
    cost = built["processor_seconds"] / (shards.tokens / 1e6)
    right = missed == made_up == 0 and absent == SPANS
    good = right and cost <= MOST_SECONDS and built["memory"] <= MOST_MEMORY
    print(
        f"{shards.tokens:,} tokens of {len(train)} books: built in {built['seconds']:.1f} s"
        f" ({built['processor_seconds']:.1f} s of processor time), {built['memory'] / 1e6:,.0f} MB"
        f" of memory, {built['bytes'] / shards.tokens:.2f} bytes a token\n"
        f"{SPANS} spans: {missed} with other places than by comparing, {1000 * seconds / SPANS:.2f}"
        f" ms each; {absent} held-out spans without a place: {made_up} found"
    )
    result = {"benchmark": "trace", "quick": arguments.quick, "tokens": shards.tokens, **built,
              "search_seconds": seconds / SPANS, "missed": missed, "absent": absent,
              "made_up": made_up, "pass": good}  # fmt: skip
    print(json.dumps(result))
    return 0 if good else 1


def tokenized(size: int) -> list[Ids]:
    """The ids of the shared books, up to `size` bytes of text, with the published vocabulary; where
    there are none, of the embedded corpus.
    """
    shared = Path(os.environ.get("GPT1_SHARED", ROOT.parent / "shared"))
    if (shared / "data" / "books").is_dir():
        tokenizer, texts = Tokenizer.from_pretrained(shared / "gpt1_bpe"), read(shared)
    else:
        print(f"No books in {shared} (GPT1_SHARED): the embedded corpus instead.", file=sys.stderr)
        tokenizer = Tokenizer(learned_vocabulary())
        texts = iter([*embedded("brontes"), *embedded("homer")])
    books: list[Ids] = []
    for text in texts:
        books.append(tokenizer.encode_array(text).ids)
        size -= len(text.encode())
        if size <= 0:
            break
    return books


def read(shared: Path) -> Iterator[str]:
    """The texts of all archives."""
    for path in sorted((shared / "data" / "books").glob("*.tar.bz2")):
        with tarfile.open(path, "r:bz2") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.name.endswith(".txt") else None
                if stream is not None:
                    yield stream.read().decode("utf-8")


def measure(shards: Shards, file: Path) -> dict[str, Any]:
    """Build the index; its seconds, bytes, and the bytes by which the process grew at most."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the largest memory so far
    before, began, spent = memory("VmRSS"), time.perf_counter(), time.process_time()
    NgramIndex.build(shards, file)
    seconds, processor = time.perf_counter() - began, time.process_time() - spent
    return {"seconds": seconds, "processor_seconds": processor,
            "memory": memory("VmHWM") - before, "bytes": file.stat().st_size}  # fmt: skip


def memory(name: str) -> int:
    """A figure of this process, in bytes: VmRSS now, VmHWM at most."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{name}:")[2].split()[0])


def random_spans(
    books: list[Ids], draw: np.random.Generator, least: int, most: int, count: int = SPANS
) -> Iterator[Ids]:
    """Spans of `least` to `most` tokens at random places."""
    for _ in range(count):
        book, length = books[draw.integers(len(books))], int(draw.integers(least, most + 1))
        start = int(draw.integers(max(1, len(book) - length + 1)))
        yield book[start : start + length]


def joined(books: list[Ids]) -> Any:
    """All books with an id between them that no text has."""
    gap = np.array([np.iinfo(np.uint16).max], np.uint16)
    return np.concatenate([part for ids in books for part in (ids, gap)])


def places(everything: Any, counts: Any, books: list[Ids], ids: Ids) -> list[tuple[int, int]]:
    """Book and index of each place of `ids`, by comparing every place, with their rarest first."""
    rarest = int(np.argmin(counts[ids]))
    at = np.flatnonzero(everything == ids[rarest]) - rarest
    at = at[(at >= 0) & (at <= len(everything) - len(ids))]
    for within, token in enumerate(ids):
        at = at[everything[at + within] == token]
    starts = np.cumsum([0, *(len(book) + 1 for book in books)])
    numbers = np.searchsorted(starts, at, side="right") - 1
    return list(zip(numbers.tolist(), (at - starts[numbers]).tolist(), strict=True))


if __name__ == "__main__":
    sys.exit(main())
