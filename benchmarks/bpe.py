"""Learning merges: ours, a plain heap learner and subword-nmt on one table of real words; the
merges must be the same.

    python benchmarks/bpe.py [--quick]

It needs the books in GPT1_SHARED (or ../shared); the full run takes about six minutes.

The table: the white-space-separated chunks, case kept and punctuation set apart, of the five
archives of real books. They are more types than the lower-cased words of the same books (235,000),
and so nearer to the half million types of a web-sized corpus.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from subword_nmt.learn_bpe import learn_bpe

from benchmarks.heap_learner import learn_with_a_heap
from gpt1.tokenizer.bpe import Merge
from gpt1.tokenizer.bpe_train import learn_merges
from gpt1.tokenizer.normalize import standardize

SECONDS = 60.0
SHARED = Path(os.environ.get("GPT1_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def main() -> int:
    """Exit status 1 when the merges differ or ours takes longer than the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true",
        help="60,000 types of one archive and 2,000 merges, under 50 s",
    )
    quick = parser.parse_args().quick
    counts = table(1 if quick else 5, 60_000 if quick else None)
    merges = 2_000 if quick else 40_000
    print(
        f"{len(counts):,} types, {sum(counts.values()):,} occurrences; {merges:,} merges; one core,"
        " CPU seconds"
    )
    learners: dict[str, Callable[[Mapping[str, int], int], list[Merge]]] = {
        "ours": learn_merges, "plain heap": learn_with_a_heap, "subword-nmt": subword_nmt,
    }  # fmt: skip
    seconds: dict[str, float] = {}
    learned: dict[str, list[Merge]] = {}
    peak = 0.0
    for name, learn in learners.items():
        began = time.process_time()
        learned[name] = learn(counts, merges)
        seconds[name] = time.process_time() - began
        if name == "ours":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ratio = seconds[name] / seconds["ours"]
        same = (
            ""
            if name == "ours"
            else f", {ratio:.1f} times ours, {_compared(learned['ours'], learned[name])}"
        )
        print(f"{name:<12}{seconds[name]:8.1f} s{same}", flush=True)
    identical = (
        all(found == learned["ours"] for found in learned.values())
        and len(learned["ours"]) == merges
    )
    passed = identical and seconds["ours"] <= SECONDS
    print(
        json.dumps(
            {
                "types": len(counts), "merges": merges, "identical": identical,
                "bar_seconds": SECONDS, "peak_mb_ours": round(peak),
                "seconds": {name: round(value, 2) for name, value in seconds.items()},
                "passed": passed,
            }
        )
    )  # fmt: skip
    return 0 if passed else 1


def table(archives: int, types: int | None) -> dict[str, int]:
    """The counts of the chunks of so many archives; with `types`, of the first so many different
    ones.
    """
    counts: Counter[str] = Counter()
    for number in range(archives):
        file = SHARED / "data" / "books" / f"books-{number:02}.tar.bz2"
        if not file.is_file():
            sys.exit(f"{file}: no such file; set GPT1_SHARED to the folder of real data")
        with tarfile.open(file, "r:bz2") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.name.endswith(".txt") else None
                if stream is not None:
                    counts.update(standardize(stream.read().decode("utf-8")).split())
                if types is not None and len(counts) >= types:
                    return dict(list(counts.items())[:types])
    return dict(counts)


def subword_nmt(counts: Mapping[str, int], merges: int) -> list[Merge]:
    """The merges of subword-nmt on the same counts."""
    given = io.StringIO("".join(f"{word} {count}\n" for word, count in counts.items()))
    out = io.StringIO()
    with contextlib.redirect_stderr(io.StringIO()):
        learn_bpe(given, out, merges, is_dict=True)
    return [
        (first, second)
        for first, second in (line.split(" ") for line in out.getvalue().split("\n")[1:-1])
    ]


def _compared(ours: list[Merge], theirs: list[Merge]) -> str:
    if ours == theirs:
        return "identical merges"
    first = next(
        (at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]),
        min(len(ours), len(theirs)),
    )
    return f"DIFFERENT from merge {first + 1}"


if __name__ == "__main__":
    sys.exit(main())
