"""What belongs to S3 alone; test_store_contract.py has what all stores promise."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpt1.errors import UserError
from gpt1.train.checkpoint_record import RECORD, sha256
from gpt1.train.ranks import Ranks
from gpt1.train.saving import Keep
from gpt1.train.vault_checkpoints import VaultCheckpoints
from pipeline import cache, objects
from pipeline.objects import Objects
from pipeline.plan import Plan, State
from pipeline.store import Store
from tests.pipeline.conftest import S3, VALUE, Move, Patch, publish, published
from tests.pipeline.inline import TOY, plan_of, run_inline, write_numbers
from tests.servers.process import free_port

# The store's files


def test_a_lost_answer_does_not_lose_the_race(s3_store: str) -> None:
    """The write was done, its answer lost: the second request is refused, and still it was ours."""
    there = Objects.at(s3_store)
    asked = [there.create("word", data) for data in (b"mine", b"mine", b"yours")]
    assert asked == [True, True, False]


def test_records_come_alone_and_damaged_copies_are_not_read(
    s3_store: str, another_host: Move
) -> None:
    publish(Store.at(s3_store))
    another_host()
    store = Store.at(s3_store)
    found = published(store.seen(["stage"]))
    [copy] = store.root.glob("cache/records/stage/*.json")
    copy.write_bytes(b"{")
    assert published(store.seen(["stage"])) == published(store) == found
    assert not list(store.root.glob("stage/**/*.txt"))
    assert found.path(VALUE).read_text() == "value"

    another_host()
    key = store.file_address(found.files[VALUE]).removeprefix(f"{s3_store}/")
    Objects.at(s3_store).write(key, b"eulav")
    with pytest.raises(UserError, match=rf"{VALUE}: has sha256 .* its record says "):
        published(Store.at(s3_store)).path(VALUE)
    assert not list(Path(os.environ["GPT1_CACHE"]).rglob("value.txt"))


def test_the_cache_is_bounded_and_forgets_the_oldest(s3_store: str, monkeypatch: Patch) -> None:
    store, big = Store.at(s3_store), "x" * 1000
    for number in range(4):
        assert publish(store, big, f"print-{number}")
    for number, path in enumerate(sorted(store.root.glob(f"stage/*/*/{VALUE}"))):
        os.utime(path, (number, number))
    draft = store.new_attempt("stage", "under-way") / "draft.bin"
    draft.write_text(big)
    os.utime(draft, (0, 0))
    assert published(store, "print-0").path(VALUE).stat().st_mtime > 4, "reading counts as use"
    size = sum(path.stat().st_size for path in store.root.glob("stage/**/*") if path.is_file())
    assert cache.evict(store.root.parent, size - 1500, grace=60) == 2000
    left = sorted(path.parts[-4] for path in store.root.glob(f"stage/*/*/{VALUE}"))
    assert left == ["print-0", "print-3"]
    assert draft.exists()
    assert cache.evict(store.root.parent, 0, grace=float("inf")) == 0, "what was just used stays"
    assert published(store, "print-1").path(VALUE).read_text() == big, "fetched again"
    monkeypatch.setenv("GPT1_CACHE_GB", "much")
    with pytest.raises(UserError, match="GPT1_CACHE_GB=much: expected a number"):
        cache.bound()


# Servers that pause, and wrong addresses


def test_a_server_paused_while_files_go_up_and_down(
    s3: S3, s3_store: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(objects, "WHOLE", 1 << 20)
    data = os.urandom(3 << 20)
    (tmp_path / "big").write_bytes(data)

    there = Objects.at(s3_store)
    for work in (
        lambda: there.upload("big", tmp_path / "big"), lambda: there.create("word", b"{}"),
        lambda: there.download("big", tmp_path / "back"),
    ):  # fmt: skip
        s3[1].send_signal(signal.SIGSTOP)
        threading.Timer(1, s3[1].send_signal, [signal.SIGCONT]).start()
        work()
    assert (tmp_path / "back").read_bytes() == data


def test_a_wrong_address_is_one_clear_line(s3_store: str, monkeypatch: Patch) -> None:
    for wrong, message in (
        ("s3://no-such-bucket/x", "s3://no-such-bucket/x: .*no such bucket"),
        ("s3://a bucket/x", "s3://bucket"),
        ("gs://bucket", "gs://bucket: .*expected a folder, file://FOLDER or s3://"),
    ):
        with pytest.raises(UserError, match=message):
            Store.at(wrong)
    assert Store.at(Path(s3_store)).where == s3_store, "a path object has made one of two slashes"
    monkeypatch.setattr(objects, "FIRST_PATIENCE", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    objects._client.cache_clear()
    with pytest.raises(UserError, match=r"no answer for 0.5s .*AWS_ENDPOINT_URL"):
        Store.at(s3_store)


def test_a_store_away_is_no_file_gone(
    s3_store: str, monkeypatch: Patch, another_host: Move
) -> None:
    """What waits for MLflow is sent later in this case, and dropped in that (LookupError)."""
    publish(Store.at(s3_store))
    another_host()
    store = Store.at(s3_store)
    address = store.file_address(published(store).files[VALUE])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    objects._client.cache_clear()
    with pytest.raises(UserError, match="no credentials"):
        store.local(address)


# Workflows on such a store


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    return write_numbers(tmp_path / "numbers")


def plan(numbers: Path, store: str | Path, *assignments: str) -> Plan:
    return plan_of(TOY, store, f"numbers.source={numbers}", *assignments)


def test_nothing_is_made_twice(numbers: Path, s3_store: str, another_host: Move) -> None:
    assert run_inline(plan(numbers, s3_store)) == ["numbers", "total[factor=1]", "total[factor=2]"]
    another_host()
    assert plan(numbers, s3_store).to_run == []
    assert plan(numbers, s3_store, "total.factor=3").entries["total"].state is State.NEW
    (numbers / "4.txt").write_text("4")
    changed = plan(numbers, s3_store)
    run_inline(changed)
    entry = changed.entries["numbers"]
    record = changed.store.record(entry.cell.uses, entry.fingerprint) or {}
    assert record["parts"] == {"made": 1, "reused": 3}, "one more file costs one more part"


@pytest.mark.slow
def test_a_plan_of_many_artifacts_takes_few_requests(
    numbers: Path, tmp_path: Path, s3_store: str
) -> None:
    """First on a host: one for a thousand objects listed, one a record. Then the lists alone."""
    many = f"total.matrix.factor={[*range(1, 401)]}".replace(" ", "")
    local = plan(numbers, tmp_path / "store", many)
    run_inline(local)
    there, root = Objects.at(s3_store), local.store.root
    files = [path for path in root.glob("tests.*/**/*") if path.is_file()]
    for path in files:
        there.upload(path.relative_to(root).as_posix(), path)
    assert len(files) > 1000
    pages = 3 + len(files) // 1000  # three kinds: numbers, its parts, total
    asked: Counter[str] = Counter()
    objects._client(os.getpid()).meta.events.register(
        "before-send.s3", lambda event_name, **_: asked.update([event_name.split(".")[-1]])
    )
    assert plan(numbers, s3_store, many).to_run == []
    assert asked["ListObjectsV2"] <= pages
    assert asked["GetObject"] <= 401
    assert asked.total() <= 1 + pages + 401, asked
    asked.clear()
    assert plan(numbers, s3_store, many).to_run == []
    assert asked.total() <= 1 + pages, asked


# Checkpoints of pre-training: they count when complete, and only then, from any host

WEIGHTS = "weights.safetensors"
SNAPSHOT = "step-00000004.safetensors"


def write(file: Path, values: dict[str, Any]) -> Path:
    save_file(values, file)
    return file


class Host:
    """A host at work on an attempt of its own, or on that of `other`, with a cache of its own."""

    def __init__(self, url: str, other: Host | None = None) -> None:
        store = Store.at(url)
        self.travel: Any = pickle.loads(pickle.dumps(other.travel)) if other else store.travel
        place = other.attempt if other else store.new_attempt("pretrain", "print")
        self.attempt: Path = self.travel.here(place)
        self.files, self.said = Objects.at(url), list[str]()
        self.folder = f"pretrain/print/{self.attempt.name}"
        rest = Keep(2, 10), Ranks.connect("cpu"), self.said.append
        self.checkpoints = VaultCheckpoints(self.attempt, self.travel, *rest)

    def save(self, *steps: int, snapshot: bytes = b"weights") -> None:
        file = self.attempt / "snapshots" / SNAPSHOT
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(snapshot)
        for step in steps:
            values = {"x": np.full(100, step)}
            self.checkpoints.save(
                step, {"ranks": 1}, json.dumps({"at": step}), {SNAPSHOT: sha256(file)},
                lambda folder, values=values: [lambda: write(folder / WEIGHTS, values)],
            )  # fmt: skip
            self.checkpoints.finish()

    def newest(self) -> tuple[int, bytes]:
        """The step of the newest checkpoint that counts, after a look at it, and its snapshot."""
        found = self.checkpoints.newest()
        if found is None:
            return 0, b""
        said = {**found.facts, **json.loads(found.history())}
        assert said == {"ranks": 1, "at": found.step}
        assert load_file(found.folder / WEIGHTS)["x"].sum() == 100 * found.step
        return found.step, (found.folder.parent.parent / "snapshots" / SNAPSHOT).read_bytes()

    def steps(self) -> list[int]:
        """The steps of which this attempt has anything in the store."""
        keys = (entry.key for entry in self.files.entries(f"{self.folder}/checkpoints/"))
        return sorted({int(key.split("/")[-2].removeprefix("step-")) for key in keys})


def test_the_newest_is_found_from_another_host(s3_store: str, another_host: Move) -> None:
    first = Host(s3_store)
    assert first.newest()[0] == 0
    first.save(5, 10, 15, 20, 25)
    assert first.steps() == [10, 20, 25]
    assert not list(first.attempt.rglob(WEIGHTS)), "what is sent leaves this host's disk"
    another_host()
    assert Host(s3_store, first).newest() == (25, b"weights")
    second = Host(s3_store)
    assert second.newest()[0] == 25
    second.save(30)
    second.checkpoints.forget_after(0)
    assert (first.steps(), second.steps()) == ([10, 20, 25], []), "an earlier attempt's stay"


@pytest.mark.parametrize("harm", ["half done", "flip", "delete", "half a record"])
def test_a_harmed_one_is_passed_over(harm: str, s3_store: str, another_host: Move) -> None:
    host = Host(s3_store)
    host.save(5, 10)
    step = f"{host.folder}/checkpoints/step-00000010"
    record, weights = f"{step}/{RECORD}", f"{step}/weights.safetensors"
    data: Any = host.files.read(weights)
    match harm:
        case "half done" | "delete":
            host.files.remove([record if harm == "half done" else weights])
        case "flip":
            host.files.write(weights, data.data[:-1] + bytes([data.data[-1] ^ 1]))
        case "half a record":
            host.files.write(record, b'{"files": ')
    another_host()
    again = Host(s3_store, host)
    assert again.newest()[0] == 5
    warned = ["step-00000010: " in line for line in again.said]
    assert warned == ([] if harm == "half done" else [True])
    again.save(10)
    assert again.newest()[0] == 10


def test_going_back_takes_away_the_course_that_is_given_up(s3_store: str) -> None:
    host = Host(s3_store)
    host.save(7, 8)
    host.files.write(f"{host.folder}/checkpoints/step-00000009/weights.safetensors", b"half")
    for back, left in ((7, [7]), (0, [])):
        host.checkpoints.forget_after(back)
        assert host.steps() == left
    host.save(1, 2, 3)
    assert host.steps() == [2, 3]


def test_a_snapshot_is_sent_again_and_checked(s3_store: str, another_host: Move) -> None:
    """After going back, a step's weights are others."""
    host = Host(s3_store)
    host.save(5)
    host.save(6, 7, snapshot=b"Weights")
    another_host()
    again = Host(s3_store, host)
    assert (again.newest(), again.said) == ((7, b"Weights"), [])
    host.files.write(f"{host.folder}/snapshots/{SNAPSHOT}", b"wEights")
    another_host()
    again = Host(s3_store, host)
    assert again.newest()[0] == 0
    assert SNAPSHOT in again.said[-1]
