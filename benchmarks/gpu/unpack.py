"""Lay out a piece that prepare.py packed, on the machine with the GPU.

    python3 PIECE/unpack.py PIECE WORK

Call it for each piece as it arrives, the first one first. WORK/site gets the wheels, WORK/code the
code, WORK/packed what `gpt1 pack` wrote. Ids are compared with the sha256 of the original ones.
Needs numpy and pyarrow; run.json is rewritten to name the training shards that are there so far.
"""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any


def main(piece: Path, work: Path) -> None:
    """Unpack what is in `piece`."""
    work.mkdir(parents=True, exist_ok=True)
    wheels = sorted(map(str, (piece / "wheels").glob("*.whl")))
    if wheels:
        flags = ("-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade")
        pip = [sys.executable, "-m", "pip", "install", *flags, "--target", str(work / "site")]
        subprocess.run([*pip, *wheels], check=True)
    for archive, folder in (("code.tar.xz", work / "code"), ("packed.tar.xz", work / "packed")):
        if (piece / archive).is_file():
            with tarfile.open(piece / archive) as packed:
                packed.extractall(folder, filter="data")
    if not (work / "packed" / "shards.json").is_file():
        raise SystemExit(
            f"{piece}: not the first piece, and {work} has none yet; unpack piece-1 first"
        )
    shards: dict[str, dict[str, Any]] = json.loads((work / "packed" / "shards.json").read_text())
    here = {
        name: about for name, about in shards.items() if (piece / "ids" / f"{name}.xz").is_file()
    }
    sys.path.insert(0, str(work / "code"))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(unpack_shard, piece, work, name, about) for name, about in here.items()]
        count = sum(job.result() for job in jobs)
    present = sorted(name for name in shards if (work / "packed" / name).is_file())
    train = [name for name in present if name.startswith("train/")]
    use_shards(work / "packed", train)
    print(
        f"{piece}: {count:,} ids; {len(train)} training shards of"
        f" {sum(n.startswith('train/') for n in shards)}"
    )


def unpack_shard(piece: Path, work: Path, name: str, about: dict[str, Any]) -> int:
    """Write one shard as it was; return its number of ids."""
    import numpy as np

    from gpt1.data.shards import ids_sha256, write_shard

    packed = (piece / "ids" / f"{name}.xz").read_bytes()
    ranks = np.frombuffer(lzma.decompress(packed), np.uint16)
    ids = np.load(work / "packed" / "ids_of_rank.npy")[ranks]
    if ids_sha256(ids) != about["sha256"]:
        raise SystemExit(f"{name}: not the ids that were packed; send {piece} again")
    file = work / "packed" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as target:
        write_shard(target, ids, about["metadata"])
    return len(ids)


def use_shards(packed: Path, train: list[str]) -> None:
    """Make run.json and books.parquet name these training shards alone."""
    from gpt1.data.shards import copy_spans

    parts = {Path(name).stem for name in train}
    copy_spans(packed / "all_books.parquet", packed / "books.parquet", parts)
    run = json.loads((packed / "run.json").read_text())
    run["runtime"]["train"] = train
    (packed / "run.json").write_text(json.dumps(run, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
