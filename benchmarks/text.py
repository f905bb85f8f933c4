"""Text to ids: the straight reading of the 2018 code, the product, and Hugging Face's fast
tokenizer, on the same real books.

    python benchmarks/text.py [--quick] [--profile]

One process, one core; MB (10^6 bytes of UTF-8) and tokens a second of processor time, so that other
work on the machine counts little. The product is measured cold (new dictionaries, spaCy loaded) and
warm (after the books of another archive). Ids are compared book by book. Exit status 1 if any
differ, or below 25 times warm or 10 times cold. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from gpt1.tokenizer.bpe_train import learn_merges  # noqa: E402
from gpt1.tokenizer.normalize import blocks, fix_text, split_chunks  # noqa: E402
from gpt1.tokenizer.pretokenizer import count_words, pretokenizer  # noqa: E402
from gpt1.tokenizer.tokenizer import Tokenizer  # noqa: E402
from gpt1.tokenizer.vocabulary import Vocabulary, alphabet  # noqa: E402
from tests.gpt1.real_books import embedded  # noqa: E402
from tests.gpt1.straight_reading import StraightReading  # noqa: E402

WARM_AT_LEAST, COLD_AT_LEAST = 25.0, 10.0


@dataclass
class Work:
    """Books to measure on, books to warm up with, a vocabulary's two files, and where all this
    is from.
    """

    measured: list[str]
    warming: list[str]
    encoder: Path
    merges: Path
    source: str


def from_archive(path: Path, size: int) -> list[str]:
    """Whole books from the archive until `size` bytes are read."""
    texts: list[str] = []
    with tarfile.open(path, "r:bz2") as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.name.endswith(".txt") else None
            if stream is None:
                continue
            texts.append(stream.read().decode("utf-8"))
            if bytes_of(texts) >= size:
                break
    return texts


def bytes_of(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def work(quick: bool, scratch: Path) -> Work:
    """The shared books with the published vocabulary, or the embedded corpus with a vocabulary
    learned from it.
    """
    shared = Path(os.environ.get("GPT1_SHARED", ROOT.parent / "shared"))
    books, vocabulary = shared / "data" / "books", shared / "gpt1_bpe"
    measured = 8_000_000 if quick else 25_000_000
    if books.is_dir() and vocabulary.is_dir():
        return Work(
            from_archive(books / "books-00.tar.bz2", measured),
            from_archive(books / "books-01.tar.bz2", 1 << 40),
            vocabulary / "encoder_bpe_40000.json", vocabulary / "vocab_40000.bpe",
            "shared books: measured on books-00, warmed on books-01; published vocabulary",
        )
    print(
        f"No books in {shared} (GPT1_SHARED): the embedded corpus and a small vocabulary stand in.",
        file=sys.stderr,
    )
    texts = [*embedded("brontes"), *embedded("homer")]
    counts = count_words("\n".join(embedded("homer")))
    files = Vocabulary.from_merges(alphabet(counts, 238), learn_merges(counts, 3000)).save(scratch)
    return Work(
        texts[::2], texts[1::2], *files,
        "embedded corpus: every other file; 3,000 merges of its Homer",
    )


def timed(
    encode: Callable[[str], Any], texts: Sequence[str]
) -> tuple[list[np.ndarray[Any, Any]], float]:
    """The ids of each text, and the seconds of processor time."""
    start = time.process_time()
    found = [encode(text) for text in texts]
    seconds = time.process_time() - start
    return [np.asarray(ids, dtype=np.uint32) for ids in found], seconds


def fast_tokenizer(files: Work) -> Callable[[str], list[int]]:
    """`OpenAIGPTTokenizerFast` on the same two files."""
    from transformers import OpenAIGPTTokenizerFast

    vocabulary = Vocabulary.read(files.encoder, files.merges)
    tokenizer = OpenAIGPTTokenizerFast(
        vocab=vocabulary.ids, merges=vocabulary.merges, unk_token="<unk>"
    )
    backend = tokenizer.backend_tokenizer
    # The Rust encoder itself: the wrapper around it would only add time.
    return lambda text: backend.encode(text, add_special_tokens=False).ids


def share_that_differs(
    texts: Sequence[str], right: Tokenizer, other: Callable[[str], list[int]], lines: int
) -> dict[str, float]:
    """Over the first non-blank lines of each book: the lines with other ids, and by difflib the
    right ids not matched.
    """
    total = wrong = ids = missed = 0
    for text in texts:
        for line in [line for line in fix_text(text).split("\n") if line.strip()][:lines]:
            expected, found = right.encode(line), other(line)
            total += 1
            wrong += expected != found
            ids += len(expected)
            if expected != found:
                matcher = SequenceMatcher(None, expected, found, autojunk=False)
                missed += len(expected) - sum(block.size for block in matcher.get_matching_blocks())
    return {
        "lines_compared": total, "lines_that_differ": wrong / total,
        "ids_that_differ_in_lines": missed / ids,
    }


def steps(tokenizer: Tokenizer, texts: Sequence[str], misses: float) -> dict[str, float]:
    """Seconds of each step of `encode_array` over `texts`, whose chunks are known by now;
    `misses`: when they were not.
    """
    names = ["fix", "split into chunks", "look chunks up", "join their ids"]
    spent = dict.fromkeys(names, 0.0)

    def step(name: str, action: Callable[..., Any], *arguments: Any) -> Any:
        start = time.process_time()
        result = action(*arguments)
        spent[name] += time.process_time() - start
        return result

    known = tokenizer._codes._chunks
    for text in texts:
        for block in blocks(step(names[0], fix_text, text)):
            chunks, places = step(names[1], split_chunks, block)
            values = step(names[2], lambda some=chunks: [known.get(one, b"") for one in some])
            step(names[3], tokenizer._codes._gather, values, places)
    _, complete = timed(lambda text: tokenizer.encode_array(text).ids, texts)
    return {
        **spent,
        "breaks, counts, context-dependent lines": max(0.0, complete - sum(spent.values())),
        "chunks not met before": max(0.0, misses),
    }


def measure(files: Work, profile: bool) -> dict[str, Any]:
    """All three on the same books, one after the other; nothing is shared between them but the
    books.
    """
    vocabulary = Vocabulary.read(files.encoder, files.merges)
    straight, straight_seconds = timed(
        StraightReading(files.encoder, files.merges).ids, files.measured
    )

    pretokenizer.cache_clear()
    pretokenizer()
    encoder = Tokenizer(vocabulary)
    cold, cold_seconds = timed(lambda text: encoder.encode_array(text).ids, files.measured)

    pretokenizer.cache_clear()
    encoder = Tokenizer(vocabulary)
    for text in files.warming:
        encoder.encode_array(text)
    warm, warm_seconds = timed(lambda text: encoder.encode_array(text).ids, files.measured)
    _, known_seconds = timed(lambda text: encoder.encode_array(text).ids, files.measured)

    fast = fast_tokenizer(files)
    fast_ids, fast_seconds = timed(fast, files.measured)

    size, tokens = bytes_of(files.measured), sum(map(len, straight))

    def speed(seconds: float, found: Sequence[Any]) -> dict[str, float]:
        return {
            "seconds": round(seconds, 2), "mb_per_s": round(size / 1e6 / seconds, 2),
            "tokens_per_s": round(sum(map(len, found)) / seconds),
            "times": round(straight_seconds / seconds, 2),
        }

    result: dict[str, Any] = {
        "source": files.source,
        "books": len(files.measured),
        "mb": round(size / 1e6, 2),
        "warming_mb": round(bytes_of(files.warming) / 1e6, 2),
        "tokens": tokens,
        "straight": speed(straight_seconds, straight),
        "cold": speed(cold_seconds, cold),
        "warm": speed(warm_seconds, warm),
        "fast_tokenizer": speed(fast_seconds, fast_ids),
        "books_that_differ": {
            name: differing(straight, ids)
            for name, ids in [("cold", cold), ("warm", warm), ("fast", fast_ids)]
        },
        "fast_tokenizer_against_right": share_that_differs(files.measured, encoder, fast, 100),
        "chunks_remembered": len(encoder._codes._chunks),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "machine": (
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()};"
            " processor time"
        ),
    }
    if profile:
        spent = steps(encoder, files.measured, warm_seconds - known_seconds)
        result["profile"] = {
            name: round(seconds / sum(spent.values()), 3) for name, seconds in spent.items()
        }
    return result


def differing(right: Sequence[np.ndarray[Any, Any]], found: Sequence[np.ndarray[Any, Any]]) -> int:
    return sum(not np.array_equal(a, b) for a, b in zip(right, found, strict=True))


def report(result: dict[str, Any]) -> None:
    print(
        f"{result['source']}\n{result['books']} books, {result['mb']} MB, {result['tokens']}"
        " tokens\n"
    )
    print(f"{'':16}{'MB/s':>8}{'tokens/s':>12}{'times':>8}")
    for name in ["straight", "cold", "warm", "fast_tokenizer"]:
        row = result[name]
        print(f"{name:16}{row['mb_per_s']:8.2f}{row['tokens_per_s']:12d}{row['times']:8.2f}")
    print(f"\nBooks with other ids than the straight reading's: {result['books_that_differ']}")
    against = result["fast_tokenizer_against_right"]
    print(
        f"Fast tokenizer, by line: {against['lines_that_differ']:.1%} of"
        f" {against['lines_compared']} lines differ; {against['ids_that_differ_in_lines']:.1%} of"
        " the right ids are not in its answer (difflib), line breaks left out."
    )
    for name, share in result.get("profile", {}).items():
        print(f"  {share:6.1%}  {name}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer books; under 50 seconds")
    parser.add_argument(
        "--profile", action="store_true", help="what the warm product's time is spent on"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(work(options.quick, Path(scratch)), options.profile)
    exact = result["books_that_differ"]["cold"] == result["books_that_differ"]["warm"] == 0
    fast_enough = (
        result["warm"]["times"] >= WARM_AT_LEAST and result["cold"]["times"] >= COLD_AT_LEAST
    )
    result["passed"] = exact and fast_enough
    report(result)
    print(json.dumps(result))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
