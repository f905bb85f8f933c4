"""Golden digests: `python -m tests.golden check STORE` compares a store with what is committed.

`update STORE` commits its digests instead. The store is one of the small workflow or of the demo:
tests/golden/mini.json or demo.json, whichever has more of its jobs. There are three classes:

    data   tensors by name, columns of Arrow and Parquet files, vocabularies: identical
    JSON   each key of a file, and of a job's summary: identical through tests/golden/renamed.json,
           which maps today's names of jobs and keys to those of the digests; LEFT_OUT is left out
    prose  pages, pictures, code, and what is declared volatile: not compared

Numbers that come from training depend on the CPU and on torch. On another CPU or torch than the
digests were made with, tensors are compared by shape, mean and root mean square, to TOLERANCE, and
the JSON of jobs that compute them (all but TEXT) by its keys. `check` prints one line a difference
and ends with status 1 if there is one; status 2 is a wrong command line.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT

FOLDER = ROOT / "tests" / "golden"
NAMES = ("mini", "demo")
TEXT = ("ingest", "clean", "split", "audit", "vocabulary", "shard", "task_data", "encode")
LEFT_OUT = {
    "code", "deviation", "digest", "fingerprint", "git_commit", "provenance", "run", "verdict",
}
FEW = 40
TOLERANCE = 0.05
SMALL = 0.02  # biases begin at 0, and the sums that move them differ: nearness to less is chance
Entry = str | list[Any]
Digests = dict[str, dict[str, dict[str, Entry]]]


class Renamed(NamedTuple):
    """The names of the digests by today's names."""

    jobs: dict[str, str]
    keys: dict[str, str]


def renamed() -> Renamed:
    """The committed table."""
    return Renamed(**read("renamed"))


def machine() -> dict[str, str]:
    """What the numbers of a training depend on."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    rows = dict(line.split("\t", 1) for line in info.splitlines() if "\t" in line)
    kind = [rows.get(name, "").strip("\t: ") for name in ("vendor_id", "cpu family", "model")]
    cpu = " ".join([*kind, torch.backends.cpu.get_cpu_capability()])
    return {"cpu": cpu.strip(), "torch": torch.__version__.partition("+")[0]}


def digest(value: bytes | object) -> str:
    """Sixteen hexadecimal digits."""
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True, default=repr).encode()
    return hashlib.sha256(value).hexdigest()[:16]


def tensor_entry(tensor: torch.Tensor) -> Entry:
    """The digest; of floating-point numbers also shape, mean and root mean square."""
    content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    found = digest(f"{tensor.dtype} {list(tensor.shape)} ".encode() + content)
    if not tensor.is_floating_point():
        return found
    values = tensor.double()
    figures = (values.mean(), values.square().mean().sqrt())
    return [found, list(tensor.shape), *(float(f"{figure:.6g}") for figure in figures)]


def canonical(value: object, names: Renamed) -> object:
    """JSON with the digests' names, without what is left out."""
    if isinstance(value, dict):
        pairs = ((names.keys.get(key, key), item) for key, item in value.items())
        return {names.jobs.get(k, k): canonical(v, names) for k, v in pairs if k not in LEFT_OUT}
    if isinstance(value, list):
        return [canonical(item, names) for item in value]
    return names.jobs.get(value, value) if isinstance(value, str) else value


def json_entries(value: object, names: Renamed) -> dict[str, Entry]:
    """A digest a key; one for all of what has more keys than FEW (a vocabulary, as it is)."""
    if isinstance(value, dict) and len(value) > FEW:
        return {"": digest(value)}
    value = canonical(value, names)
    items = value.items() if isinstance(value, dict) else [("", value)]
    return {key: digest(item) for key, item in items}


def file_entries(path: Path, names: Renamed) -> dict[str, Entry] | None:
    """A file's digests by tensor, column or key; None of what is not compared."""
    match path.suffix:
        case ".safetensors":
            return {name: tensor_entry(tensor) for name, tensor in sorted(load_file(path).items())}
        case ".parquet" | ".arrow":
            is_arrow = path.suffix == ".arrow"
            table = pa.ipc.open_file(path).read_all() if is_arrow else pq.read_table(path)
            pairs = zip(table.schema, table.columns, strict=True)
            return {field.name: digest([str(field.type), c.to_pylist()]) for field, c in pairs}
        case ".json":
            return json_entries(json.loads(path.read_text(encoding="utf-8")), names)
        case ".jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            keys = dict.fromkeys(key for row in rows for key in row)
            return json_entries({key: [row.get(key) for row in rows] for key in keys}, names)
        case ".bpe":
            return {"": digest(path.read_bytes())}
    return None


def newest_records(store: Path) -> dict[str, dict[str, Any]]:
    """The record of each job that was finished last."""
    paths = [p for p in store.glob("*/*/record*.json") if not p.parts[-3].endswith(".parts")]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    live = [record for record in records if not record.get("withdrawn")]
    return {r["cell"]: r for r in sorted(live, key=lambda record: record["finished"])}


def digests(store: Path, names: Renamed) -> Digests:
    """The digests of a store: job, file, tensor or column or key."""
    found: Digests = {}
    for job, record in sorted(newest_records(store).items()):
        files = found.setdefault(names.jobs.get(job, job), {})
        files["summary"] = json_entries(record["summary"], names)
        for name, file in sorted(record["files"].items()):
            entries = None if file["volatile"] else file_entries(store / file["key"], names)
            if entries is not None:
                files[name] = entries
    return found


def read(name: str) -> Any:
    """What is committed."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def write(name: str, found: Digests) -> None:
    """Commit: a line a file."""
    jobs = []
    for job, files in found.items():
        lines = [f"  {json.dumps(file)}: {json.dumps(entries)}" for file, entries in files.items()]
        jobs.append(f" {json.dumps(job)}: {{\n" + ",\n".join(lines) + "\n }")
    head = f'{{"made_with": {json.dumps(machine())}, "jobs": {{\n'
    (FOLDER / f"{name}.json").write_text(head + ",\n".join(jobs) + "\n}}\n", encoding="utf-8")


def is_equal(now: Entry, before: Entry, is_exact: bool) -> bool:
    """Whether two digests are; or, not exactly, tensors have one shape and nearly mean and size."""
    if is_exact or now == before or not isinstance(now, list) or not isinstance(before, list):
        return now == before or (not is_exact and type(now) is type(before))
    most = TOLERANCE * max(before[3], SMALL)
    is_near = all(abs(now[i] - before[i]) <= most for i in (2, 3))
    return now[1] == before[1] and is_near


def differences(now: Digests, before: Digests, same_machine: bool) -> Iterator[str]:
    """Each difference, with its job, its file and its tensor, column or key."""
    for job in sorted({*now, *before}):
        is_exact = same_machine or job.partition("[")[0] in TEXT
        for file in sorted({*now.get(job, {}), *before.get(job, {})}):
            here, there = (side.get(job, {}).get(file, {}) for side in (now, before))
            for key in sorted({*here, *there}):
                where = f"{job}: {file}: {key}" if key else f"{job}: {file}"
                if key not in here or key not in there:
                    yield f"{where}: {'missing' if key in there else 'not in the golden digests'}"
                elif not is_equal(here[key], there[key], is_exact):
                    yield f"{where}: {here[key]}, expected {there[key]}"


def name_of(store: Path) -> str:
    """Which of NAMES has more of the store's jobs, and fewer others."""
    jobs = {renamed().jobs.get(job, job) for job in newest_records(store)}
    known = {name: set(read(name)["jobs"]) for name in NAMES}
    return max(NAMES, key=lambda name: len(jobs & known[name]) / len(jobs | known[name]))


def main() -> None:
    """Check or update."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("check", "update"))
    parser.add_argument("store", type=Path)
    given = parser.parse_args()
    if not newest_records(given.store):
        parser.error(f"{given.store}: found no record of a finished job; expected a store")
    name, now = name_of(given.store), digests(given.store, renamed())
    if given.action == "update":
        write(name, now)
        return
    before = read(name)
    is_same = before["made_with"] == machine()
    found = list(differences(now, before["jobs"], is_same))
    kind = "exactly" if is_same else f"trained numbers to {TOLERANCE:.0%}: other CPU or torch"
    print(*found, f"{len(found)} differences from {name}.json, compared {kind}", sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
