"""Checkpoints count when whole, and only then."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch

from gpt1.train.checkpoint import PRIVATE, Checkpoints, sorted_candidates
from gpt1.train.checkpoint_record import HISTORY, RECORD, Checkpoint, read_checkpoint, sha256
from gpt1.train.engine import Write, on_cpu, torch_save
from gpt1.train.ranks import Ranks
from gpt1.train.saving import Keep

FACTS = {"ranks": 1}


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return Ranks.connect("cpu")


class Bench:
    """A folder of checkpoints, and what was said about them."""

    def __init__(self, folder: Path, ranks: Ranks, earlier: tuple[Path, ...] = (), keep: int = 2, every: int = 0) -> None:
        self.said: list[str] = []
        self.folder = folder / "checkpoints"
        self.checkpoints = Checkpoints(self.folder, earlier, Keep(keep, every), ranks, self.said.append)

    def save(self, step: int, snapshots: dict[str, str] | None = None) -> None:
        def copy(folder: Path) -> list[Write]:
            return [lambda: torch_save(torch.full((100,), step), folder / "weights.pt")]

        self.checkpoints.save(step, FACTS, json.dumps({"at": step}), snapshots or {}, copy)
        self.checkpoints.finish()

    def newest_step(self) -> int | None:
        found = self.checkpoints.newest()
        return found.step if found else None


def test_the_newest_is_found_with_its_facts_and_history_and_old_ones_go(tmp_path: Path, ranks: Ranks) -> None:
    bench = Bench(tmp_path, ranks)
    assert bench.newest_step() is None
    for step in (5, 10, 15):
        bench.save(step)
    found = bench.checkpoints.newest()
    assert isinstance(found, Checkpoint)
    assert (found.step, dict(found.facts), json.loads(found.history())) == (15, FACTS, {"at": 15})
    assert [path.name for path in sorted_candidates([bench.folder])] == ["step-00000015", "step-00000010"]
    assert len(list(bench.folder.iterdir())) == 2
    assert bench.said == []


@pytest.mark.parametrize("harm", ["truncate", "flip", "delete", "no record", "half a record", "history", "a file outside"])
def test_a_harmed_one_is_passed_over_with_a_warning(harm: str, tmp_path: Path, ranks: Ranks) -> None:
    bench = Bench(tmp_path, ranks)
    bench.save(5)
    bench.save(10)
    newest = bench.folder / "step-00000010"
    weights, record = newest / "weights.pt", newest / RECORD
    data = weights.read_bytes()
    match harm:
        case "truncate":
            weights.write_bytes(data[:-1])
        case "flip":
            weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "delete":
            weights.unlink()
        case "no record":
            record.unlink()
        case "half a record":
            record.write_text(record.read_text()[:30])
        case "history":
            (newest / HISTORY).write_text("{}")
        case "a file outside":
            listed = json.loads(record.read_text())
            listed["files"]["../../../x"] = {"size": 1, "sha256": "0"}
            record.write_text(json.dumps(listed))
    assert bench.newest_step() == 5
    assert len(bench.said) == 1
    assert "step-00000010" in bench.said[0]
    bench.save(10)  # made again, it replaces the harmed one
    assert bench.newest_step() == 10


def test_one_that_was_being_written_does_not_count_and_is_swept_away(tmp_path: Path, ranks: Ranks) -> None:
    bench = Bench(tmp_path, ranks)

    def fail(folder: Path) -> list[Write]:
        def write() -> Path:
            (folder / "half").write_text("half")
            raise OSError("the disk is full")

        return [write]

    bench.checkpoints.save(5, FACTS, "{}", {}, fail)
    with pytest.raises(OSError, match="full"):
        bench.checkpoints.finish()
    assert [path.name.startswith(PRIVATE) for path in bench.folder.iterdir()] == [True]
    again = Bench(tmp_path, ranks)
    assert again.newest_step() is None
    assert list(bench.folder.iterdir()) == []


def test_folders_of_earlier_attempts_are_searched_and_never_written(tmp_path: Path, ranks: Ranks) -> None:
    first, second = Bench(tmp_path / "a", ranks), Bench(tmp_path / "b", ranks)
    first.save(5)
    first.save(20)
    second.save(10)
    before = {path: path.stat().st_mtime_ns for folder in (first.folder, second.folder) for path in folder.rglob("*")}
    third = Bench(tmp_path / "c", ranks, earlier=(first.folder, second.folder), keep=1)
    assert third.newest_step() == 20
    third.save(20)
    third.save(25)
    found = third.checkpoints.newest()
    assert found is not None
    assert found.folder.parent == third.folder
    assert before == {path: path.stat().st_mtime_ns for folder in (first.folder, second.folder) for path in folder.rglob("*")}


def test_some_are_kept_for_good(tmp_path: Path, ranks: Ranks) -> None:
    bench = Bench(tmp_path, ranks, keep=1, every=10)
    for step in (5, 10, 15, 20, 25):
        bench.save(step)
    assert [path.name for path in sorted_candidates([bench.folder])] == [f"step-{n:08d}" for n in (25, 20, 10)]


def test_going_back_takes_away_the_course_that_is_given_up(tmp_path: Path, ranks: Ranks) -> None:
    """Else its checkpoints would stay the newest, and each new one would go as soon as it is written."""
    earlier, bench = Bench(tmp_path / "a", ranks), Bench(tmp_path / "b", ranks)
    earlier.save(9)
    bench.checkpoints.folders.insert(0, earlier.folder)
    for step in (7, 8):
        bench.save(step)
    bench.checkpoints.forget_after(0)
    assert list(bench.folder.iterdir()) == []
    assert bench.newest_step() == 9, "an earlier attempt's are only read"
    for step in (1, 2, 3):
        bench.save(step)
    bench.checkpoints.forget_after(2)
    assert [path.name for path in bench.folder.iterdir()] == ["step-00000002"]


def test_one_under_way_is_taken_away_too(tmp_path: Path, ranks: Ranks) -> None:
    bench = Bench(tmp_path, ranks)
    may_write = threading.Event()

    def copy(folder: Path) -> list[Write]:
        def write() -> Path:
            assert may_write.wait(30)
            return torch_save(torch.zeros(1), folder / "weights.pt")

        return [write]

    bench.checkpoints.save(5, FACTS, "{}", {}, copy)
    threading.Timer(0.2, may_write.set).start()
    bench.checkpoints.forget_after(4)
    assert list(bench.folder.iterdir()) == []


def test_training_goes_on_while_one_is_written_but_not_past_the_next(tmp_path: Path, ranks: Ranks) -> None:
    """What is saved is what was there at the call, though it changes before it is written."""
    bench = Bench(tmp_path, ranks)
    may_write = threading.Event()
    weights = torch.zeros(3)

    def copy(folder: Path) -> list[Write]:
        copied = on_cpu(weights)

        def write() -> Path:
            assert may_write.wait(30)
            return torch_save(copied, folder / "weights.pt")

        return [write]

    bench.checkpoints.save(1, FACTS, "{}", {}, copy)
    weights += 1
    assert sorted_candidates([bench.folder]) == []
    threading.Timer(0.2, may_write.set).start()
    bench.checkpoints.save(2, FACTS, "{}", {}, copy)
    assert [path.name for path in sorted_candidates([bench.folder])] == ["step-00000001"]
    bench.checkpoints.finish()
    first, second = (torch.load(bench.folder / f"step-0000000{n}" / "weights.pt") for n in (1, 2))
    assert (float(first.sum()), float(second.sum())) == (0, 3)


def test_snapshots_belong_to_it(tmp_path: Path, ranks: Ranks) -> None:
    bench = Bench(tmp_path, ranks)
    snapshot = tmp_path / "snapshots" / "step-00000004.safetensors"
    snapshot.parent.mkdir()
    snapshot.write_bytes(b"weights")
    bench.save(5, {snapshot.name: sha256(snapshot)})
    assert bench.newest_step() == 5
    snapshot.write_bytes(b"Weights")
    assert bench.newest_step() is None
    assert "step-00000004.safetensors is damaged" in bench.said[-1]
    assert isinstance(read_checkpoint(bench.folder / "step-00000005"), str)
