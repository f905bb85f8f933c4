"""Damage of each kind of file: whoever reads it notices, and the same command mends it."""

import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from gpt1.train.checkpoint import file_sha256
from pipeline.execution.executor import Executor
from pipeline.planning.file_hashes import FileHashes
from pipeline.store.atomic import sign, to_json
from pipeline.store.base import RESERVED, Store
from pipeline.store.lease import Leases
from pipeline.store.snapshot import StoreSnapshot
from stages.contract import ExternalFile
from tests.e2e.workflow import MINI, copy_without, draw_for, outputs, records
from tests.pipeline.conftest import s3, s3_store  # noqa: F401
from tests.pipeline.inprocess import gpt1, refused, said
from tests.servers.ray_cluster import Cluster, ray_cluster

chaos, slow = pytest.mark.chaos, pytest.mark.slow
MODEL = "pretrain/pretrain/model.safetensors"
EXPORTED = "export/export/hf/model.safetensors"
VOCABULARY = "vocabulary.parts/merges/vocab_300.bpe"
SPLIT = "split/split/split.parquet"
ROUNDS = {
    "text": (
        "clean split/ vocabulary/ vocabulary.parts/merges shard/ audit/ finetune",
        "ingest.parts/*/books/* split.parts/*/signatures/* vocabulary.parts/*/counts/*"
        " shard.parts/*/spans/* audit.parts/*/words/* task_data/*choice*/train.jsonl"
        " task_data/*author*/dev.jsonl",
    ),
    "books": (
        "vocabulary shard task_data audit report",
        "clean.parts/part-0000/books/* clean.parts/*1/records/* clean.parts/*2/samples/*"
        f" {SPLIT} finetune/*/scores.json zero_shot/*/scores.json",
    ),
    "shards": (
        "pretrain export finetune",
        "shard.parts/*/train/* shard.parts/*/held_out/* shard/shard/books.parquet"
        f" vocabulary.parts/merges/encoder* {VOCABULARY} task_data/*/task.json",
    ),
    "weights": (
        "zero_shot finetune/transfer export report",
        f"{MODEL} pretrain/*/snapshots/*60.safetensors pretrain/*/metrics.jsonl"
        " pretrain/*/checkpoints/*120/manifest.json finetune/*seed=1?/model.safetensors",
    ),
    "records": (
        "shard/",
        "split/split/record.json shard.parts/*/record.json pretrain/*/record.json"
        " finetune/*/record.json leases/shard/*/0*.json cache/file-hash* report/*/report.html",
    ),
}
"""Records that are taken away, so that their jobs read again what they need, and the kinds of files
(STAGE/JOB/NAME) of which one each is damaged.
"""


def flip(path: Path, draw: random.Random) -> None:
    """Flip one bit; nothing that a listing shows tells of it."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


DAMAGES: Mapping[str, Callable[[Path, random.Random], object]] = {
    "flip": flip,
    "half": lambda path, _: os.truncate(path, path.stat().st_size // 2),
    "zero": lambda path, _: os.truncate(path, 0),
    "deleted": lambda path, _: path.unlink(),
}


def files(store: Path) -> dict[str, Path]:
    """What a store has of each artifact and its record, by STAGE/JOB/NAME, and what else it has."""
    found = {str(path.relative_to(store)): path for path in store.glob("*/**/*.json")}
    for job, record in records(store).items():
        folder = store / record["stage"] / record["fingerprint"]
        found[f"{job}/record.json"] = folder / "record.json"
        attempt = folder / record["attempt"]
        found |= {f"{job}/{path.relative_to(attempt)}": path for path in attempt.rglob("*.*")}
    return {name: path for name, path in found.items() if path.is_file() and path.stat().st_size}


def is_golden(store: Path, golden: Path) -> bool:
    """Whether the results are those of an undisturbed run, and all that records say is so."""
    return outputs(store) == outputs(golden) and all(
        file_sha256(store / file["key"]) == file["sha256"]
        for record in records(store).values()
        for file in record["files"].values()
    )


@pytest.mark.parametrize(("name", "damages"), [
    *(pytest.param(name, [one], marks=pytest.mark.chaos, id=name + one)
      for name in ROUNDS for one in DAMAGES),
    *(pytest.param(name, [*DAMAGES], marks=slow, id=name) for name in ("text", "books")),
])  # fmt: skip
def test_damage_is_mended_by_the_same_command(
    name: str, damages: Sequence[str], golden_run: Path, ray_head: Cluster, tmp_path: Path
) -> None:
    """Of all that `kinds` names; then all is as in an undisturbed run."""
    draw = draw_for(name + damages[0]) if len(damages) == 1 else random.Random(name)
    (gone, kinds), harmed = ROUNDS[name], list[tuple[str, str]]()
    store = copy_without(golden_run, tmp_path / "store", *gone.split())
    there = files(store)
    for kind in kinds.split():
        damage, file = draw.choice(damages), draw.choice([f for f in there if fnmatch(f, kind)])
        DAMAGES[damage](there[file], draw)
        harmed.append((file, damage))
    ended = gpt1("run", "--file", MINI, "--store", store, cluster=ray_head)
    assert (ended.status, is_golden(store, golden_run)) == (0, True), (harmed, ended)


@slow
def test_what_is_not_repaired_without_being_asked(
    golden_run: Path, ray_head: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes long, and what is damaged again; nothing is lost. A report is compared as well."""
    store, draw = copy_without(golden_run, tmp_path / "store", "task_data"), random.Random(1)
    made, words = Executor._finish, ("run", "--file", MINI, "--store", store)
    split = files(store)[SPLIT]
    before, content = records(store), split.read_bytes()
    for damage, found in (("half", "has 2078 bytes"), ("flip", "has sha256")):
        split.write_bytes(content)
        DAMAGES[damage](split, draw)
        ended = gpt1(*words, "--repair-limit", "0s", cluster=ray_head)
        assert (ended.status, records(store)) == (2, before), ended
        cost = r"making split again takes about \S+, more than the limit of 0.0s;"
        message = rf"split.parquet.* {found}.*; {cost} allow it with --repair-limit \d+s$"
        assert re.search(message, ended.err, re.MULTILINE), ended

    def damaged_again(runner: Executor, attempt: Any) -> None:
        made(runner, attempt)
        if attempt.entry.cell.id == "split":
            flip(store / attempt.entry.artifact.files["split.parquet"].key, draw)

    with monkeypatch.context() as patch:
        patch.setattr(Executor, "_finish", damaged_again)
        refused("made again, and is damaged again: check the disk", *words, cluster=ray_head)
    flip(files(store)["report/report/report.html"], draw)
    assert "report.html: the file has sha256" in said(*words, cluster=ray_head)
    assert is_golden(store, golden_run)


@slow
@pytest.mark.parametrize(("words", "kind"), [
    ("generate pretrain", MODEL), ("generate export", EXPORTED),
    ("predict demo_choice --text a --choice b --choice c", "finetune/*choice*/head.safetensors"),
    ("trace train 10", "shard.parts/part-0000/train/part-0000.arrow"),
    (f"perplexity {MINI}", VOCABULARY),
])  # fmt: skip
def test_commands_say_what_is_damaged(
    words: str, kind: str, golden_run: Path, tmp_path: Path
) -> None:
    store = copy_without(golden_run, tmp_path / "store")
    [path] = [path for name, path in files(store).items() if fnmatch(name, kind)]
    flip(path, random.Random(2))
    message = rf"gpt1: {path.relative_to(store)}: the file has .*; `gpt1 run` makes it again\n\Z"
    assert refused(message, *words.split(), "--store", store).count("\n") <= 2


@pytest.mark.slow
def test_verify_and_gc(golden_run: Path, ray_head: Cluster, tmp_path: Path) -> None:
    """What is damaged, and what no one needs: no checkpoint, nor what somebody holds."""
    store = copy_without(golden_run, tmp_path / "store")
    there, words = files(store), ("--file", MINI, "--store", store)
    flip(there[EXPORTED], random.Random(3))
    there["split/split/record.json"].write_text("{")
    ended = gpt1("verify", "--store", store)
    assert (ended.status, ended.out.count("damaged: export/")) == (1, 1), ended
    assert re.search(r"unreadable: split/\w+: its record.json cannot be read", ended.out)
    said("run", *words, cluster=ray_head)
    assert is_golden(store, golden_run)
    assert gpt1("verify", "--store", store).status == 0
    status, export = said("status", *words), records(store)["export/export"]
    record = there["pretrain/pretrain/record.json"].read_bytes()
    there["pretrain/pretrain/record.json"].unlink()  # it counts as unfinished
    leftover = store / f"clean/.private-{0:032x}"
    leftover.touch()
    os.utime(leftover, (0, 0))
    other = Leases(Store.at(store), "other")
    other.take([f"export/{export['fingerprint']}"])
    words_of_gc = ("gc", "--unfinished", "--store", store)
    would = said(*words_of_gc, "--dry-run")
    assert re.findall(r"^([a-z ]+): (\w+)/", would, re.MULTILINE) == [
        ("set aside", "split"), ("leftover", "clean")
    ], would
    assert said(*words_of_gc).replace("deleted", "would delete") == would
    other.release()
    gone = re.findall(r"^attempt: (\w+)/\w+/[\w.-]+/: another", said(*words_of_gc), re.MULTILINE)
    assert gone == ["export", "split"], "what was withdrawn, now that no other run may read it"
    there["pretrain/pretrain/record.json"].write_bytes(record)
    assert (said("status", *words), is_golden(store, golden_run)) == (status, True)
    assert gpt1("verify", "--store", store).status == 0


@pytest.mark.parametrize("wrong", [5, "0" * 64, [1, 2, 3, 4, None]])
def test_a_wrong_memory_of_hashes_costs_a_second_look(wrong: object, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    memory = tmp_path / "cache" / "file-hashes.json"
    memory.parent.mkdir()
    memory.write_bytes(sign(to_json({"files": {str(tmp_path / "file"): wrong}})))
    [found] = FileHashes(tmp_path).resolve([ExternalFile("file", tmp_path / "file")])
    assert found.digest == file_sha256(tmp_path / "file")


@chaos
def test_damage_in_a_bucket(golden_run: Path, tmp_path: Path, s3_store: str) -> None:  # noqa: F811
    """Of an object, of this host's copy of one, and of a record; and what verify and gc find."""
    draw, store = draw_for("bucket"), Store.at(s3_store)
    there = {name: path.relative_to(golden_run) for name, path in files(golden_run).items()}
    for path in golden_run.glob("*/*/**/*.*"):
        if path.is_file() and path.relative_to(golden_run).parts[0] not in RESERVED:
            store.objects.upload(str(path.relative_to(golden_run)), path)

    def harm(name: str) -> None:
        (tmp_path / "object").write_bytes((golden_run / there[name]).read_bytes())
        flip(tmp_path / "object", draw)
        store.objects.upload(str(there[name]), tmp_path / "object")

    with ray_cluster(tmp_path / "ray.log") as cluster:

        def run(gone: str) -> str:
            store.objects.remove(str(there[name]) for name in there if fnmatch(name, gone))
            return said("run", "--file", MINI, "--store", s3_store, cluster=cluster)

        harm(MODEL)
        assert "  damaged: pretrain/" in run("zero_shot/*/record.json")
        harm("split/split/record.json")
        assert "its record.json cannot be read" in run("finetune/transfer*/record.json")
        flip(store.root / there[VOCABULARY], draw)
        assert "damaged" not in run("zero_shot/*/record.json"), "a copy is fetched again"
        harm(EXPORTED)
        assert gpt1("verify", "--store", s3_store).status == 1
        assert "has other content than recorded (`gpt1 verify`)" in run("")
    gone = said("gc", "--store", s3_store)
    counts = [gone.count(f"attempt: {stage}/") for stage in ("pretrain", "split")]
    assert counts == [0, 1], "the newest checkpoints stay"
    assert gpt1("verify", "--store", s3_store).status == 0
    snapshot = StoreSnapshot(store)
    assert outputs(golden_run) == {
        f"{record.stage}/{record.cell}/{name}": file.sha256
        for stage in snapshot.stages()
        for record in snapshot.records(stage)
        for name, file in record.files.items()
        if not file.volatile
    }
