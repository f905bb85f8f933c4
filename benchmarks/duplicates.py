"""Finding copies: real books, planted copies of some of them, and what plain datasketch takes for
the same signatures.

    python -m benchmarks.duplicates [--quick] [--books FOLDER] [--workers 2]

1. Signs every book of the archives and decides, on `--workers` processes; seconds and memory.
2. Lists every pair found among the real books with the exact share of runs in common, for a person
   to judge.
3. Plants seven kinds of copies of 30 books and counts what is found; a copy must be found beside
   its own book and no other.
4. Signs some books with `MinHash.update` on the runs' bytes, as datasketch's documentation shows:
   times and estimates compared.

Exits with 1 when a kind is found less often than BARS says, a pair is false, or the product is less
than three times as fast.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
from datasketch import MinHash

from gpt1.corpus.document import Document
from gpt1.corpus.split import (
    SHINGLE,
    NearRules,
    Pair,
    Signature,
    SplitRow,
    WordHashes,
    decide,
    run_hashes,
    sharing_pairs,
    sign,
    words_of,
)
from tests.gpt1.corpus.planted import KINDS

RULES = NearRules(copy=0.6, tie=0.3)
PERMUTATIONS = 128
BARS = dict.fromkeys(KINDS, 1.0)
FASTEST = 3.0
PLANTED = 30


def main() -> int:
    arguments = _arguments()
    archives = sorted(arguments.books.glob("books-*.tar.bz2"))[: 1 if arguments.quick else None]
    limit = 60 if arguments.quick else None
    started = time.monotonic()
    with ProcessPoolExecutor(arguments.workers) as pool:
        signatures = [
            item
            for some in pool.map(sign_archive, archives, [limit] * len(archives))
            for item in some
        ]
    signing = time.monotonic() - started
    started = time.monotonic()
    rows = decide(signatures, 0.1, 0, RULES)
    deciding = time.monotonic() - started
    memory = (
        max(
            resource.getrusage(who).ru_maxrss
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        >> 10
    )
    print(
        f"{len(rows)} books signed in {signing:.1f} s and decided in {deciding:.1f} s; {memory} MB"
        " in the largest process"
    )

    drawn = random.Random(1).sample(
        [row.book for row in rows if row.copy_of is None], 8 if arguments.quick else PLANTED
    )
    suspects = list(sharing_pairs(signatures, 0.1))
    wanted = {
        *drawn,
        *(name for pair in suspects for name in (pair.longer.book, pair.shorter.book)),
    }
    texts = {
        name: text for archive in archives for name, text in read(archive, limit) if name in wanted
    }
    false = wrong_pairs(suspects, texts)
    recall = {kind: plant(kind, drawn, texts, signatures) for kind in KINDS}
    print(
        "found of planted copies: "
        + ", ".join(f"{kind} {share:.3f}" for kind, share in recall.items())
    )
    ratio, difference = against_datasketch([texts[name] for name in drawn[:6]])
    print(
        f"{ratio:.1f} times as fast as MinHash.update; Jaccard estimates differ by {difference:.3f}"
        " at most"
    )
    good = all(recall[kind] >= BARS[kind] for kind in KINDS) and not false and ratio >= FASTEST
    figures = {
        "books": len(rows), "signing_seconds": round(signing, 1),
        "deciding_seconds": round(deciding, 2), "memory_mb": memory,
        "near_copies": sum(row.set == "near_duplicate" for row in rows),
        "exact_copies": sum(row.set == "duplicate" for row in rows), "false": false,
        "recall": recall, "times_datasketch": round(ratio, 1), "workers": arguments.workers,
        "good": good,
    }  # fmt: skip
    print(json.dumps(figures))
    return 0 if good else 1


def read(archive: Path, limit: int | None) -> Iterator[tuple[str, str]]:
    """Name and text of the books of one archive."""
    with tarfile.open(archive, "r:bz2") as members:
        number = 0
        for member in members:
            stream = members.extractfile(member) if member.name.endswith(".txt") else None
            if stream is None:
                continue
            yield member.name, stream.read().decode()
            number += 1
            if number == limit:
                return


def sign_archive(archive: Path, limit: int | None) -> list[Signature]:
    """The signatures of the books of one archive."""
    hashes = WordHashes()
    return [signed(name, text, hashes) for name, text in read(archive, limit)]


def signed(name: str, text: str, hashes: WordHashes) -> Signature:
    return sign(Document(name, name, None, name, text), "part-0000", None, PERMUTATIONS, hashes)


def wrong_pairs(suspects: Sequence[Pair], texts: Mapping[str, str]) -> int:
    """Print each pair with its exact share; how many were called copies, or not, against the
    exact share (give or take 0.05).
    """
    wrong = 0
    for pair in sorted(suspects, key=lambda pair: -pair.share):
        exact = exact_share(texts[pair.shorter.book], texts[pair.longer.book])
        kind = (
            "copy" if pair.share >= RULES.copy else "tied" if pair.share >= RULES.tie else "apart"
        )
        wrong += exact < RULES.copy - 0.05 if kind == "copy" else exact > RULES.copy + 0.05
        print(
            f"{kind:5} estimated {pair.share:.3f} exact {exact:.3f} jaccard {pair.jaccard:.3f} "
            f" {pair.shorter.book} ({pair.shorter.words} words) | {pair.longer.book}"
            f" ({pair.longer.words})"
        )
    return wrong


def exact_share(shorter: str, longer: str) -> float:
    """The share of the runs of one text that stand in the other, from all of them."""
    hashes = WordHashes()
    first, second = (set(run_hashes(words_of(text), hashes).tolist()) for text in (shorter, longer))
    return len(first & second) / len(first)


def plant(
    kind: str, names: Sequence[str], texts: dict[str, str], signatures: list[Signature]
) -> float:
    """The share of the planted copies that are found, each paired with its own book."""
    hashes = WordHashes()
    copies = {f"{name} {kind}": KINDS[kind](texts[name], random.Random(name)) for name in names}
    rows = {
        row.book: row
        for row in decide(
            [*signatures, *(signed(n, t, hashes) for n, t in copies.items())], 0.1, 0, RULES
        )
    }
    found = [_joined(rows, name, f"{name} {kind}") for name in names]
    for name, good in zip(names, found, strict=True):
        if not good:
            print(f"missed: {kind} of {name}: {rows[f'{name} {kind}']}")
    return sum(found) / len(found)


def _joined(rows: dict[str, SplitRow], name: str, copy: str) -> bool:
    """Whether of a book and its copy one names the other and both lie in one group."""
    return rows[name].group == rows[copy].group and (
        rows[copy].copy_of == name or rows[name].copy_of == copy
    )


def against_datasketch(texts: Sequence[str]) -> tuple[float, float]:
    """How many times as fast the product signs, and by how much the estimates of the Jaccard
    similarity of parts differ at most.
    """
    halves = [(text, text[: len(text) * 2 // 3]) for text in texts]
    started = time.perf_counter()
    ours = [[signed("x", text, WordHashes()) for text in pair] for pair in halves]
    mine = time.perf_counter() - started
    started = time.perf_counter()
    plain = [[_plain(text) for text in pair] for pair in halves]
    theirs = time.perf_counter() - started
    differences = [
        abs(_jaccard(a[0], a[1]) - b[0].jaccard(b[1])) for a, b in zip(ours, plain, strict=True)
    ]
    strangers = [
        abs(_jaccard(ours[i][0], ours[j][0]) - plain[i][0].jaccard(plain[j][0]))
        for i, j in combinations(range(len(texts)), 2)
    ]
    return theirs / mine, max(differences + strangers)


def _jaccard(one: Signature, other: Signature) -> float:
    """As the product estimates it: the share of minima that are equal."""
    values = [np.frombuffer(signature.minhash, "<u4") for signature in (one, other)]
    return float((values[0] == values[1]).mean())


def _plain(text: str) -> MinHash:
    words = words_of(text)
    minhash = MinHash(num_perm=PERMUTATIONS)
    for start in range(len(words) - SHINGLE + 1):
        minhash.update(" ".join(words[start : start + SHINGLE]).encode())
    return minhash


def _arguments() -> argparse.Namespace:
    shared = Path(os.environ.get("GPT1_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="60 books and 8 planted copies of each kind"
    )
    parser.add_argument(
        "--books", type=Path, default=shared / "data" / "books",
        help="the folder of books-*.tar.bz2",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that sign books")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
