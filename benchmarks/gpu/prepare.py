"""Pack what the GPU benchmarks need into pieces that fit the way there.

    python benchmarks/gpu/prepare.py --store STORE --out FOLDER --books BOOKS --tasks GLUE --bpe BPE
    python benchmarks/gpu/prepare.py --store STORE --out FOLDER --profile rehearsal --tasks GLUE \\
        --no-wheels

Runs benchmarks/gpu/workflow.yaml up to the token shards and the tokenized tasks, packs them with
`gpt1 pack`, and writes FOLDER/piece-1, piece-2, ... of at most `--mib` MiB each: the code, wheels
of what the machine there lacks (`--python` is its version), tasks and ids. Ids travel as ranks by
frequency in uint16 under xz, about one byte a token; unpack.py gives back the exact ids. The
commands to run there are printed at the end.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from gpt1.data.shards import ids_sha256, open_shard  # noqa: E402
from gpt1.errors import UserError  # noqa: E402

HERE = Path(__file__).resolve().parent
FILE = HERE / "workflow.yaml"
CODE = ("gpt1", "benchmarks/gpu", "benchmarks/glue.py", "benchmarks/plain_gpt.py",
        "benchmarks/train_contenders.py")  # fmt: skip
WHEELS = ("deepspeed", "pydantic", "pydantic-core", "typing-inspection", "annotated-types", "hjson")
"""What DeepSpeed needs and a machine with torch, transformers and pyarrow often lacks."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 3, "lp": 1, "pb": 1}]  # two-byte numbers


def main() -> int:
    """Run, pack, cut into pieces."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the pieces")
    parser.add_argument("--profile", help="`rehearsal`: tiny")
    parser.add_argument("--books", help="folder of books (ingest.source)")
    parser.add_argument("--tasks", help="folder of the GLUE tasks (task_data.source)")
    parser.add_argument("--bpe", help="folder of OpenAI's vocabulary (vocabulary.source)")
    parser.add_argument("--mib", type=float, default=55, help="largest piece")
    parser.add_argument("--python", default="3.12", help="Python of the machine with the GPU")
    parser.add_argument("--wheels", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    if options.out.exists():
        raise UserError(f"{options.out}: exists; name a new folder, or remove it")
    sources = {"ingest": options.books, "task_data": options.tasks, "vocabulary": options.bpe}
    words = ["--file", str(FILE), "--store", options.store]
    words += ["--profile", options.profile] if options.profile else []
    words += [
        w for stage, path in sources.items() if path for w in ("--set", f"{stage}.source={path}")
    ]
    gpt1("run", "shard", "encode", *words)
    with tempfile.TemporaryDirectory(dir=options.out.resolve().parent) as scratch:
        packed = Path(scratch) / "packed"
        gpt1("pack", str(packed), *words)
        pieces = cut(packed, Path(scratch) / "pieces", options)
        shutil.move(pieces, options.out)
    return describe(options.out, int(options.mib * 2**20))


def gpt1(*words: str) -> None:
    """Run the project's command line; end with its status when it fails."""
    command = [sys.executable, "-m", "pipeline.cli", *words]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status:
        raise SystemExit(status)


def cut(packed: Path, pieces: Path, options: argparse.Namespace) -> Path:
    """Distribute the packed folder over pieces; return the folder that holds them."""
    first = pieces / "piece-1"
    first.mkdir(parents=True)
    shutil.copy(HERE / "unpack.py", first)
    archive(first / "code.tar.xz", ROOT, [ROOT / name for name in CODE])
    if options.wheels:
        collect_wheels(first / "wheels", options.python)
    shards = sorted(path for path in packed.rglob("*.arrow"))
    rank_of, ids_of_rank = by_frequency(shards)
    np.save(packed / "ids_of_rank.npy", ids_of_rank)
    ids = {shard.relative_to(packed).as_posix(): about(shard) for shard in shards}
    (packed / "shards.json").write_text(json.dumps(ids, indent=1) + "\n")
    (packed / "books.parquet").rename(packed / "all_books.parquet")
    rest = [
        path for path in sorted(packed.rglob("*")) if path.is_file() and path.suffix != ".arrow"
    ]
    archive(first / "packed.tar.xz", packed, rest)
    limit, number = int(options.mib * 2**20), 1
    with ProcessPoolExecutor(2) as pool:
        compressed = pool.map(compress, shards, [rank_of] * len(shards))
        # the held-out shards go first: without them nothing can be measured
        for name, data in sorted(
            zip(ids, compressed, strict=True), key=lambda item: item[0].startswith("train/")
        ):
            if size(pieces / f"piece-{number}") + len(data) > limit:
                number += 1
            target = pieces / f"piece-{number}" / "ids" / f"{name}.xz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    return pieces


def archive(target: Path, root: Path, paths: list[Path]) -> None:
    """Pack files and folders below `root`; compiled Python stays out."""
    with tarfile.open(target, "w:xz") as packed:
        for path in paths:
            packed.add(
                path, path.relative_to(root),
                filter=lambda one: None if "__pycache__" in one.name else one,
            )


def collect_wheels(folder: Path, python: str) -> None:
    """Take the wheels of WHEELS in the versions installed here, DeepSpeed built from its source."""
    from importlib.metadata import version

    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    built = f"deepspeed=={version('deepspeed')}"
    source = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), built]
    subprocess.run(source, check=True)
    others = [f"{name}=={version(name)}" for name in WHEELS if name != "deepspeed"]
    where = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:"]
    where += [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run([*pip, "download", "--no-deps", *where, "-d", str(folder), *others], check=True)


def by_frequency(shards: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank of each id by frequency, and the id of each rank, both (65536,) uint16."""
    counts = sum(np.bincount(open_shard(shard).ids, minlength=1 << 16) for shard in shards)
    ids_of_rank = np.argsort(-np.asarray(counts), kind="stable").astype(np.uint16)
    rank_of = np.empty_like(ids_of_rank)
    rank_of[ids_of_rank] = np.arange(1 << 16, dtype=np.uint16)
    return rank_of, ids_of_rank


def about(shard: Path) -> dict[str, Any]:
    """Return what unpack.py needs to write the shard again: its metadata and its ids' sha256."""
    found = open_shard(shard)
    metadata = {"vocabulary": found.vocabulary, "set": found.set, "part": found.part}
    return {"metadata": metadata, "sha256": ids_sha256(found.ids)}


def compress(shard: Path, rank_of: np.ndarray) -> bytes:
    """Return a shard's ids as ranks under xz."""
    ranks = rank_of[open_shard(shard).ids]
    buffer = io.BytesIO()
    with lzma.open(buffer, "wb", filters=XZ) as file:
        file.write(ranks.tobytes())
    return buffer.getvalue()


def size(folder: Path) -> int:
    """Return the bytes of a folder's files; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def describe(out: Path, limit: int) -> int:
    """Print the pieces and the commands; 1 where a piece is too large or the first has no text."""
    pieces = sorted(out.iterdir(), key=lambda path: int(path.name.split("-")[1]))
    sizes = {piece.name: size(piece) for piece in pieces}
    scripts = "W/code/benchmarks/gpu"
    print(
        "\nOn the machine with the GPU, W being a folder that stays there between calls and O one"
    )
    print("whose files come back after each call, at most ten minutes long:")
    print("call 1, with piece-1:")
    print("  python3 piece-1/unpack.py piece-1 W && export PYTHONPATH=W/site:W/code")
    print(
        f"  python3 {scripts}/speed.py --packed W/packed --out W/results --limit 200; cp"
        " W/results/* O"
    )
    for number, piece in enumerate(list(sizes)[1:], start=2):
        last = number == len(sizes)
        print(f"call {number}, with {piece}{', at once after the one before' if last else ''}:")
        print(f"  export PYTHONPATH=W/site:W/code; python3 {scripts}/unpack.py {piece} W")
    speed = "--speed W/results/speed.jsonl"
    print(f"  python3 {scripts}/learn.py --packed W/packed {speed} --out O --limit 540")
    trains = any((pieces[0] / "ids" / "train").glob("*"))
    if not trains:
        print(
            "piece-1 has no room for a training shard, which speed.py needs; use more parts or a"
            " larger --mib"
        )
    print(json.dumps({"benchmark": "gpu/prepare", "pieces": sizes, "limit": limit}))
    return 0 if trains and max(sizes.values()) <= limit else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"benchmarks/gpu/prepare.py: {error}", file=sys.stderr)
        sys.exit(2)
