"""Mutated real files of every format that ingest reads: documents or skipped files, no exception,
no hang, no more than 1 GB.

    python benchmarks/hostile.py [--quick] [--files 2000] [--seed 0]

Makes a file of each format from shared books, then changes copies: bits flipped, ends cut, pieces
doubled, moved or exchanged, numbers set to extremes. Each is read as ingest reads it, in a child
process with a limit on memory, and must give a document or a skipped file. Nothing but a fault in
pyarrow's C++ may end a child, which is then a skipped file too. A seed gives the same files again;
those that fail are kept and named. The last line is a JSON object; ends with 1 when a file failed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gpt1.corpus.document import Document, ReadingConfig, SkippedFile, SourceFile
from gpt1.corpus.isolation import read_isolated
from tests.gpt1.corpus import forms_of_books as forms

SHARED = Path(os.environ.get("GPT1_SHARED", Path(__file__).resolve().parents[2] / "shared"))
BOOKS, CHARACTERS = 6, 30_000
PATIENCE = 60.0  # seconds; the slowest of a file of this size takes one
AT_ONCE = 50
EXTREMES = (b"\0", b"\xff", b"\x7f", b"\x80", b"9", b"\x01")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="300 files")
    parser.add_argument("--files", type=int, default=2_000, help="how many mutated files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    arguments = parser.parse_args()
    archive = SHARED / "data" / "books" / "books-00.tar.bz2"
    if not archive.is_file():
        print(f"{archive}: no such file; GPT1_SHARED must name the shared data", file=sys.stderr)
        return 2
    intact = real_files(archive)
    number = min(300, arguments.files) if arguments.quick else arguments.files
    began = time.monotonic()
    rules: Counter[str] = Counter()
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="gpt1-hostile-") as scratch:
        for start in range(0, number, AT_ONCE):
            made = {}
            for seed in range(start, min(number, start + AT_ONCE)):
                name, data = mutated(intact, f"{arguments.seed}.{seed}")
                made[name] = Path(scratch) / str(seed)
                made[name].write_bytes(data)
            for name, fault in read(made, rules):
                failed[name] = fault
                print(f"{name}: {fault}", file=sys.stderr)
                if arguments.keep:
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    (arguments.keep / name).write_bytes(made[name].read_bytes())
            for path in made.values():
                path.unlink()
            print(f"{min(number, start + AT_ONCE)} of {number} files", flush=True)
    seconds = round(time.monotonic() - began, 1)
    about = {"seed": arguments.seed, "files": number, "seconds": seconds, "formats": len(intact)}
    print(json.dumps({**about, "rules": dict(sorted(rules.items())), "failed": failed}))
    return 1 if failed else 0


def real_files(archive: Path) -> dict[str, bytes]:
    """A file of each format by its suffix, of a few real books."""
    books: dict[str, bytes] = {}
    with tarfile.open(archive) as members:
        for number, member in enumerate(members):
            if number == BOOKS:
                break
            source = members.extractfile(member)
            assert source is not None
            text = source.read().decode(errors="replace")[:CHARACTERS].rpartition("\n\n")[0]
            books[f"Author {number % 3}/Book {number}"] = text.encode()
    texts, first = forms.as_files(books), next(iter(books.values()))
    pages = {f"{n}.xhtml": forms.page(text.decode()) for n, text in enumerate(books.values())}
    epub = forms.epub_of("A title", "An author", pages)
    rows, sentences = forms.as_rows(books), [{"text": f"sentence {n} ."} for n in range(5_000)]
    made = {
        ".txt": first, ".md": first, ".txt.utf16": first.decode().encode("utf-16"),
        ".txt.latin1": first.decode().encode("latin-1", "replace") + b"\xe9", ".epub": epub,
        ".zip": forms.zip_of({**texts, "a.epub": epub, "a.jsonl": forms.jsonl_of(rows)}),
        ".parquet": forms.parquet_of(rows, 2), ".rows.parquet": forms.parquet_of(sentences, 500),
    }  # fmt: skip
    for codec in forms.CODECS:
        made[f".txt{codec}"] = first
        made[f".jsonl{codec}"] = forms.jsonl_of(rows)
        made[f".tar{codec}"] = forms.tar_of({**texts, "a.epub": epub})
    return made


def mutated(intact: dict[str, bytes], seed: str) -> tuple[str, bytes]:
    """A changed file that the seed chooses, and its name: changed outside, or before it was packed
    (a member of a zip file; a tar file, whose check sums are right again).
    """
    draw = random.Random(seed)
    kind = draw.choice(sorted(intact))
    data, inside = intact[kind], draw.random() < 0.6
    codec = next((codec for codec in forms.CODECS[1:] if kind.endswith(codec)), "")
    if kind in (".zip", ".epub") and inside:
        data = with_changed_member(data, draw)
    elif inside or not codec:
        data = changed(data, draw)
        if ".tar" in kind and draw.random() < 0.7:
            data = with_check_sums(data)
    data = forms.packed(data, codec)
    if codec and not inside:
        data = changed(data, draw)
    suffix = ".txt" if kind.startswith((".txt.utf16", ".txt.latin1")) else kind
    return f"{seed}{suffix}", data


def changed(data: bytes, draw: random.Random) -> bytes:
    new = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        if new:
            draw.choice(MUTATIONS)(new, draw)
    return bytes(new)


def with_changed_member(data: bytes, draw: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(sorted(members))
    return forms.zip_of({**members, name: changed(members[name], draw)})


def with_check_sums(data: bytes) -> bytes:
    new = bytearray(data)
    for at in range(0, len(new) - 511, 512):
        if new[at + 257 : at + 262] == b"ustar":
            block = new[at : at + 148] + b" " * 8 + new[at + 156 : at + 512]
            new[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return bytes(new)


def flip(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 3, 30))):
        data[place(data, draw)] ^= 1 << draw.randrange(8)


def cut(data: bytearray, draw: random.Random) -> None:
    at = place(data, draw)
    if draw.random() < 0.8:
        del data[at:]
    else:
        del data[:at]


def remove(data: bytearray, draw: random.Random) -> None:
    at = place(data, draw)
    del data[at : at + size(draw)]


def double(data: bytearray, draw: random.Random) -> None:
    at = place(data, draw)
    data[at:at] = data[at : at + size(draw)] * draw.choice((1, 1, 2, 50))


def move(data: bytearray, draw: random.Random) -> None:
    at, wanted = place(data, draw), size(draw)
    piece = bytes(data[at : at + wanted])
    del data[at : at + wanted]
    at = draw.randrange(len(data) + 1)
    data[at:at] = piece


def extreme(data: bytearray, draw: random.Random) -> None:
    at, width = place(data, draw), draw.choice((1, 2, 4, 8, 12))
    data[at : at + width] = draw.choice(EXTREMES) * width


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip, cut, remove, double, move, extreme, extreme,
)


def place(data: bytearray, draw: random.Random) -> int:
    """Anywhere, more often near the ends, where headers and directories are."""
    near = min(len(data), 600)
    start = draw.choice((0, 0, len(data) - near, None))
    return draw.randrange(len(data)) if start is None else start + draw.randrange(near)


def size(draw: random.Random) -> int:
    return draw.choice((1, 4, 30, 512, 5_000))


def read(files: dict[str, Path], rules: Counter[str]) -> Iterator[tuple[str, str]]:
    """Read the files; the names of those that gave nothing or ended their reader, and why."""
    listed = [SourceFile(name, str(path)) for name, path in files.items()]
    config = ReadingConfig(max_document=16 << 20)
    found: Counter[str] = Counter()
    for item in read_isolated(listed, config, patience=PATIENCE):
        if isinstance(item, SkippedFile):
            found[item.file] += 1
            rules[item.rule] += 1
            in_library = ".parquet" in item.file and "SIG" in item.found
            fatal = item.rule == "reader_died" and not in_library
            if fatal or "MemoryError" in item.found:
                yield item.file, item.found
        elif isinstance(item, Document):
            found[item.origins[0].file] += 1
            rules["documents"] += 1
    yield from ((name, "neither document nor skipped file") for name in files if not found[name])


if __name__ == "__main__":
    sys.exit(main())
