"""Checkpoints of pre-training on S3: they count when complete, and only then, from any host."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt1.train.checkpoint_record import RECORD, sha256
from gpt1.train.engine import torch_save
from gpt1.train.ranks import Ranks
from gpt1.train.saving import Keep
from gpt1.train.vault_checkpoints import VaultCheckpoints
from pipeline.objects import Objects
from pipeline.store import Store
from tests.pipeline.conftest import Move

SNAPSHOT = "step-00000004.safetensors"


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
            tensor = torch.full((100,), step)
            self.checkpoints.save(
                step, {"ranks": 1}, json.dumps({"at": step}), {SNAPSHOT: sha256(file)},
                lambda folder, tensor=tensor: [lambda: torch_save(tensor, folder / "weights.pt")],
            )  # fmt: skip
            self.checkpoints.finish()

    def newest(self) -> tuple[int, bytes]:
        """The step of the newest checkpoint that counts, after a look at it, and its snapshot."""
        found = self.checkpoints.newest()
        if found is None:
            return 0, b""
        said = {**found.facts, **json.loads(found.history())}
        assert said == {"ranks": 1, "at": found.step}
        assert float(torch.load(found.folder / "weights.pt").sum()) == 100 * found.step
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
    assert not list(first.attempt.rglob("weights.pt")), "what is sent leaves this host's disk"
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
    record, weights = f"{step}/{RECORD}", f"{step}/weights.pt"
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
    warned = ["step-00000010 is passed over" in line for line in again.said]
    assert warned == ([] if harm == "half done" else [True])
    again.save(10)
    assert again.newest()[0] == 10


def test_going_back_takes_away_the_course_that_is_given_up(s3_store: str) -> None:
    host = Host(s3_store)
    host.save(7, 8)
    host.files.write(f"{host.folder}/checkpoints/step-00000009/weights.pt", b"half")
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
