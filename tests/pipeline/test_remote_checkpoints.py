"""Checkpoints of pre-training on S3: they count when whole, and only then, from whatever host."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from gpt1.train.checkpoint_record import RECORD, Checkpoint, sha256
from gpt1.train.engine import Write, torch_save
from gpt1.train.ranks import Ranks
from gpt1.train.saving import Keep
from gpt1.train.vault_checkpoints import VaultCheckpoints
from pipeline.objects import Objects
from pipeline.store import Store
from stages.contract import Travel
from tests.pipeline.conftest import on_another_host


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return Ranks.connect("cpu")


class Host:
    """A host at work on an attempt, with a cache of its own."""

    def __init__(self, url: str, ranks: Ranks, travel: Travel | None = None, attempt: Path | None = None, every: int = 0) -> None:
        store = Store.at(url)
        here = pickle.loads(pickle.dumps(travel)) if travel else store.travel
        self.travel: Travel = here
        self.attempt = self.travel.here(attempt) if attempt else store.new_attempt("pretrain", "print")
        self.said: list[str] = []
        self.checkpoints = VaultCheckpoints(self.attempt, self.travel, Keep(2, every), ranks, self.said.append)

    def save(self, step: int, snapshots: dict[str, str] | None = None) -> None:
        def copy(folder: Path) -> list[Write]:
            return [lambda: torch_save(torch.full((100,), step), folder / "weights.pt")]

        self.checkpoints.save(step, {"ranks": 1}, json.dumps({"at": step}), snapshots or {}, copy)
        self.checkpoints.finish()

    def newest(self) -> Checkpoint | None:
        return self.checkpoints.newest()


def keys(url: str) -> list[str]:
    return [entry.key.partition("/checkpoints/")[2] for entry in Objects.at(url).entries() if "/checkpoints/" in entry.key]


def test_the_newest_is_found_from_another_host_and_old_ones_go(
    s3_store: str, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Host(s3_store, ranks, every=10)
    assert first.newest() is None
    for step in (5, 10, 15, 20, 25):
        first.save(step)
    assert {key.partition("/")[0] for key in keys(s3_store)} == {f"step-{step:08d}" for step in (10, 20, 25)}
    assert not list(first.attempt.rglob("weights.pt")), "what is sent does not fill this host's disk"
    on_another_host(monkeypatch, tmp_path)
    second = Host(s3_store, ranks, first.travel)
    found = second.newest()
    assert found is not None
    assert (found.step, dict(found.facts), json.loads(found.history())) == (25, {"ranks": 1}, {"at": 25})
    assert float(torch.load(found.folder / "weights.pt").sum()) == 2500
    second.save(30)
    [attempt, other] = Store.at(s3_store).attempts("pretrain", "print")
    assert [attempt.name, other.name] == [first.attempt.name, second.attempt.name]
    assert len(keys(s3_store)) == 3 * 3 + 3, "an earlier attempt's are read, never taken away"


@pytest.mark.parametrize("harm", ["half done", "flip", "delete", "half a record"])
def test_a_harmed_one_is_passed_over_with_a_warning(
    harm: str, s3_store: str, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(s3_store, ranks)
    host.save(5)
    host.save(10)
    there = Objects.at(s3_store)
    newest = f"pretrain/print/{host.attempt.name}/checkpoints/step-00000010"
    weights = there.read(f"{newest}/weights.pt")
    assert weights is not None
    match harm:
        case "half done":
            there.remove([f"{newest}/{RECORD}"])
        case "flip":
            there.write(f"{newest}/weights.pt", weights.data[:-1] + bytes([weights.data[-1] ^ 1]))
        case "delete":
            there.remove([f"{newest}/weights.pt"])
        case "half a record":
            there.write(f"{newest}/{RECORD}", b'{"files": ')
    on_another_host(monkeypatch, tmp_path)
    again = Host(s3_store, ranks, host.travel, host.attempt)
    found = again.newest()
    assert found is not None
    assert found.step == 5
    assert ["step-00000010 is passed over" in line for line in again.said] == ([] if harm == "half done" else [True])
    again.save(10)
    assert (again.newest() or found).step == 10


def test_going_back_takes_away_the_course_that_is_given_up(s3_store: str, ranks: Ranks) -> None:
    host = Host(s3_store, ranks)
    for step in (7, 8):
        host.save(step)
    Objects.at(s3_store).write(f"pretrain/print/{host.attempt.name}/checkpoints/step-00000009/weights.pt", b"half")
    host.checkpoints.forget_after(7)
    assert {key.partition("/")[0] for key in keys(s3_store)} == {"step-00000007"}
    host.checkpoints.forget_after(0)
    assert keys(s3_store) == []
    for step in (1, 2, 3):
        host.save(step)
    assert {key.partition("/")[0] for key in keys(s3_store)} == {"step-00000002", "step-00000003"}
    other = Host(s3_store, ranks)
    other.checkpoints.forget_after(0)
    assert len(keys(s3_store)) == 2 * 3, "an earlier attempt's are read, never taken away"


def test_snapshots_belong_to_it(s3_store: str, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(s3_store, ranks)
    snapshot = host.attempt / "snapshots" / "step-00000004.safetensors"
    snapshot.parent.mkdir()
    snapshot.write_bytes(b"weights")
    host.save(5, {snapshot.name: sha256(snapshot)})
    on_another_host(monkeypatch, tmp_path)
    found = Host(s3_store, ranks, host.travel).newest()
    assert found is not None
    assert (found.folder.parent.parent / "snapshots" / snapshot.name).read_bytes() == b"weights"
    Objects.at(s3_store).write(f"pretrain/print/{host.attempt.name}/snapshots/{snapshot.name}", b"Weights")
    on_another_host(monkeypatch, tmp_path)
    other = Host(s3_store, ranks, host.travel)
    assert other.newest() is None
    assert "step-00000004.safetensors is damaged" in other.said[-1]


def test_a_snapshot_that_is_written_again_is_sent_again(
    s3_store: str, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After going back, a step's weights are others."""
    host = Host(s3_store, ranks)
    snapshot = host.attempt / "snapshots" / "step-00000020.safetensors"
    snapshot.parent.mkdir()
    for weights in (b"weights", b"Weights"):
        snapshot.write_bytes(weights)
        host.save(20, {snapshot.name: sha256(snapshot)})
    host.save(40, {snapshot.name: sha256(snapshot)})
    on_another_host(monkeypatch, tmp_path)
    again = Host(s3_store, ranks, host.travel)
    found = again.newest()
    assert again.said == []
    assert found is not None
    assert found.step == 40
    assert (found.folder.parent.parent / "snapshots" / snapshot.name).read_bytes() == b"Weights"
