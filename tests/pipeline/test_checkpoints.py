"""Checkpoints in folders and in a store on S3: they count when complete, and only then."""

from __future__ import annotations

import itertools
import json
import pickle
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
import torch

from gpt1.errors import UserError
from gpt1.train import checkpoint as ckpt
from gpt1.train.checkpoint import HISTORY, MANIFEST, STATE
from gpt1.train.dist import DistContext
from pipeline.store.base import Store
from stages.contract import StoredFolder
from tests.pipeline.conftest import Move

SNAPSHOT = "step-00000010.safetensors"
FACTS = ckpt.CheckpointFacts(config={"a": 1.0, "books": ["café"]}, ranks=2, zero=1)
PARTS = ("weights", "exp_avg", "exp_avg_sq")


def history(step: int) -> dict[str, Any]:
    return {"rows": [{"step": step, "loss": 1 / step}]}


class Host:
    """A host at work on an attempt of its own, or on that of `other`."""

    def __init__(
        self, storage: ckpt.CheckpointStorage, attempt: Path, earlier: list[Path] | None = None
    ) -> None:
        self.storage, self.attempt, self.said = storage, attempt, list[str]()
        self.folder = attempt / "checkpoints"
        self.checkpoints = ckpt.CheckpointManager(
            attempt, earlier or [], ckpt.RetentionPolicy(2, 10), DistContext.connect("cpu"),
            self.said.append, storage,
        )  # fmt: skip

    def save(self, *steps: int, snapshot: bytes = b"") -> None:
        """Checkpoints of these steps; all need the `snapshot`, where there is one."""
        file, needed = self.attempt / "snapshots" / SNAPSHOT, dict[str, str]()
        if snapshot:
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(snapshot)
            needed = {SNAPSHOT: ckpt.file_sha256(file)}
        for step in steps:
            state = ckpt.TrainingState(step)
            for part in PARTS:
                state.parts[part]["a.weight"] = torch.full((3, 4), float(step))
                state.parts[part]["b"] = torch.full((1,), float(step))
            rows = json.dumps(history(step))
            self.checkpoints.save(step, FACTS, rows, needed, lambda state=state: state)
        self.checkpoints.wait()

    def latest(self) -> tuple[int, bytes]:
        """The step of the latest checkpoint, which is as saved to the bit, and its snapshot."""
        found = self.checkpoints.latest()
        snapshot = self.attempt / "snapshots" / SNAPSHOT
        if found is None:
            return 0, b""
        assert (found.facts, json.loads(found.history)) == (FACTS, history(found.step))
        assert found.state is not None
        assert (found.state.updates, {*found.state.parts}) == (found.step, {*PARTS})
        for values in found.state.parts.values():
            bits = {name: value.unique().tolist() for name, value in values.items()}
            assert bits == {"a.weight": [found.step], "b": [found.step]}
        return found.step, snapshot.read_bytes() if snapshot.exists() else b""

    def put(self, folder: Path, name: str, data: bytes | None) -> None:
        """Store bytes, in a folder without the syncs of `upload`; None: delete the file."""
        if data is None:
            self.storage.delete(folder, [name])
        elif isinstance(self.storage, ckpt.FolderStorage):
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
        else:
            with NamedTemporaryFile() as file:
                file.write(data)
                file.flush()
                self.storage.upload(folder, name, Path(file.name))

    def steps(self) -> list[int]:
        """The steps of which this attempt has anything."""
        names = self.storage.list(self.folder)
        return sorted({int(re.findall(r"step-(\d+)/", name)[0]) for name in names})


NewHost = Callable[..., Host]


@pytest.fixture(params=["folder", "s3"])
def new_host(request: pytest.FixtureRequest, tmp_path: Path) -> NewHost:
    """Makes hosts: each has a cache of its own. They share the folders, or nothing but the store.

    `other`: the host whose attempt it continues; `earlier`: whose checkpoints it only reads.
    """
    count = itertools.count()

    def in_folder(other: Host | None = None, earlier: Host | None = None) -> Host:
        attempt = other.attempt if other else tmp_path / f"attempt-{next(count)}"
        return Host(ckpt.FolderStorage(), attempt, [earlier.folder] if earlier else None)

    def on_s3(other: Host | None = None, earlier: Host | None = None) -> Host:
        another_host()
        store, source = Store.at(url), other or earlier
        storage: Any = pickle.loads(pickle.dumps(source.storage if source else store.storage))

        def here(path: Path) -> Any:
            return store.localize(StoredFolder(path.relative_to(storage.root).as_posix()))

        attempt = here(other.attempt) if other else store.new_attempt("pretrain", "print")
        return Host(store.storage, attempt, [here(earlier.folder)] if earlier else None)

    if request.param == "folder":
        return in_folder
    url: str = request.getfixturevalue("s3_store")
    another_host: Move = request.getfixturevalue("another_host")
    return on_s3


def test_the_latest_is_found_from_another_host(new_host: NewHost) -> None:
    first = new_host()
    assert first.latest() == (0, b"")
    first.save(5, 10, 15, 20, 25, snapshot=b"weights")
    assert first.steps() == [10, 20, 25]
    assert not [path for path in first.attempt.glob(".*") if path.is_dir()], "no private folder"
    assert new_host(first).latest() == (25, b"weights")
    second = new_host(earlier=first)
    assert second.latest() == (25, b"weights")
    second.save(30)
    second.checkpoints.delete_after(0)
    assert (first.steps(), second.steps()) == ([10, 20, 25], []), "an earlier attempt's stay"


def test_going_back_deletes_the_course_that_is_given_up(new_host: NewHost) -> None:
    host = new_host()
    host.save(7, 8)
    host.put(host.folder / ckpt.step_name(9), STATE, b"half")
    for back, left in ((7, [7]), (0, [])):
        host.checkpoints.delete_after(back)
        assert host.steps() == left
    host.save(1, 2, 3)
    assert host.steps() == [2, 3]


def test_of_a_snapshot_made_again_the_new_one_counts(new_host: NewHost) -> None:
    """After a rollback, a step's weights are others."""
    host = new_host()
    host.save(5, snapshot=b"weights")
    host.save(6, 7, snapshot=b"Weights")
    again = new_host(host)
    assert (again.latest(), again.said) == ((7, b"Weights"), [])


def test_a_damaged_one_is_made_again_and_never_counts_as_new(new_host: NewHost) -> None:
    host = new_host()
    host.save(2, 3, 4)
    for step in (3, 4):
        host.put(host.folder / ckpt.step_name(step), STATE, b"damaged")
    again = new_host(host)
    assert again.latest() == (0, b"")
    again.save(3)
    assert again.steps() == [3, 4], "4 is later, but not newer"
    assert new_host(again).latest() == (3, b"")


def test_what_the_writer_raised_is_raised_by_the_next_call(new_host: NewHost) -> None:
    host = new_host()
    host.checkpoints.save(5, FACTS, "{}", {"missing.safetensors": "0" * 64}, ckpt.TrainingState)
    with pytest.raises(UserError, match=r"could not be written .*missing"):
        host.checkpoints.wait()
    host.save(6)
    assert host.latest()[0] == 6


# Damage of every kind: it is noticed, or it changes nothing

FLIPS = {"folder": 1800, "s3": 240}


class Damage:
    """Files of the checkpoints of steps 5 and 10, which a second attempt reads."""

    def __init__(self, new_host: NewHost) -> None:
        first = new_host()
        first.save(5)
        first.save(10, snapshot=b"weights")
        self.second = new_host(earlier=first)
        [self.source] = self.second.checkpoints.folders[:1]
        self.kept = {(folder, name): self.read(folder, name) for folder, name in self.places()}

    def places(self, step: int = 10) -> list[tuple[Path, str]]:
        folder = self.source / ckpt.step_name(step)
        files = [(folder, name) for name in (STATE, HISTORY, MANIFEST)]
        return [*files, (self.source.parent / "snapshots", SNAPSHOT)]

    def read(self, folder: Path, name: str) -> bytes:
        return self.second.storage.read(folder, name) or b""

    def latest(self) -> tuple[int, list[str]]:
        """The step of what is found, checked to the bit, and the warnings."""
        self.second.said.clear()
        shutil.rmtree(self.second.attempt / "snapshots", ignore_errors=True)
        step, snapshot = self.second.latest()
        assert snapshot == (b"weights" if step == 10 else b"")
        return step, list(self.second.said)

    def skips(self, folder: Path, name: str, data: bytes | None) -> str:
        """What is said of a file that has these bytes; empty where they change nothing."""
        self.second.put(folder, name, data)
        step, said = self.latest()
        self.second.put(folder, name, self.kept[folder, name])
        if step == 10:
            assert said == []
            return ""
        assert step == 5
        [line] = said
        start = f"warning: skipped checkpoint {self.source / ckpt.step_name(10)}: "
        assert line.startswith(start)
        assert line.endswith("; using the one before it")
        assert "\n" not in line
        return line


@pytest.fixture
def damage(new_host: NewHost) -> Iterator[Damage]:
    found = Damage(new_host)
    yield found
    assert found.latest() == (10, [])


def test_flipped_bits(damage: Damage, request: pytest.FixtureRequest) -> None:
    draw, shares = random.Random(14), {STATE: 3, HISTORY: 1, MANIFEST: 4, SNAPSHOT: 1}
    count = FLIPS[request.node.callspec.params["new_host"]]
    for folder, name in damage.places():
        data, without_effect = damage.kept[folder, name], 0
        for _ in range(count * shares[name] // sum(shares.values())):
            position = draw.randrange(8 * len(data))
            flipped = bytearray(data)
            flipped[position // 8] ^= 1 << position % 8
            without_effect += not damage.skips(folder, name, bytes(flipped))
        assert without_effect <= (count // 50 if name == MANIFEST else 0), name


def test_cut_missing_and_exchanged_files(damage: Damage) -> None:
    for folder, name in damage.places():
        data = damage.kept[folder, name]
        for length in (0, 1, len(data) // 2, len(data) - 1):
            assert name in damage.skips(folder, name, data[:length])
        assert name in damage.skips(folder, name, data + b"\0")
        assert f"{name} is missing" in damage.skips(folder, name, None)
    for (folder, name), (other, _) in zip(damage.places(10), damage.places(5)[:3], strict=False):
        ours, theirs = damage.kept[folder, name], damage.read(other, name)
        assert name in damage.skips(folder, name, theirs)
        damage.second.put(folder, name, theirs)
        damage.second.put(other, name, ours)
        step, said = damage.latest()
        assert (step, len(said)) == (0, 2), "both have a file of the other"
        damage.second.put(folder, name, ours)
        damage.second.put(other, name, theirs)


DIGEST = {"size": 1, "sha256": "0"}
FORGED = [
    ({"format": 9}, "format: Input should be 1"),
    ({"step": 11}, "belongs to step 11"),
    ({"step": True}, "step: Input should be a valid integer"),
    ({"facts": {"ranks": 2}}, "facts.config: Field required"),
    ({"more": 1}, "more: Extra inputs"),
    ({"files": {}}, "lists no file"),
    ({"files": {STATE: {"size": "1", "sha256": "0"}}}, f"{STATE}.size: Input should"),
    ({"files": {"../../x": DIGEST}}, r"lists \.\./\.\./x"),
    ({"snapshots": {"/etc/hosts": DIGEST}}, "names '/etc/hosts', which is outside"),
]


@pytest.mark.parametrize("new_host", ["folder"], indirect=True)
def test_a_manifest_with_the_right_sha256_is_checked_all_the_same(damage: Damage) -> None:
    folder = damage.source / ckpt.step_name(10)
    content = json.loads(damage.kept[folder, MANIFEST])
    del content["sha256"]
    for change, said in FORGED:
        forged: dict[str, Any] = {**content, **change}
        data = json.dumps({**forged, "sha256": ckpt.content_sha256(forged)}).encode()
        assert re.search(said, damage.skips(folder, MANIFEST, data)), said
    assert "cannot be read" in damage.skips(folder, MANIFEST, b"[" * 100_000)
    assert "is damaged" in damage.skips(folder, MANIFEST, b"[]")
