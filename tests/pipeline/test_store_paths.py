"""Stores and sources at any legal path; and a store that was moved: MLflow shows the same, and the old place is not made again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from gpt1.errors import UserError
from gpt1.paths import path_of_uri
from pipeline.commands.model import export_mlflow
from pipeline.document import scalar
from pipeline.objects import Objects
from pipeline.recorder import default_uri
from pipeline.store import Store
from pipeline.tracking import Tracker, sync
from tests.conftest import ROOT
from tests.pipeline.test_tracking import _no_server, client, files_of, free_port, runs  # noqa: F401
from tests.servers.mlflow import ui

TOY = ROOT / "tests" / "pipeline" / "toy" / "workflow.yaml"
NAMES = (
    "a%20b", "c%2Fd", "q?x=1", "h#f", "a space", "semi;colon", "am&p", "pl+us", "quote'\"s", "\u00e9", "e\u0301", "new\nline",
    "100%", "file:x", "a::b", "[x]*", "$HOME", "back\\slash",
)  # fmt: skip
STORES = ("a%20b", "c%2Fd", "q?x=1#f;g&h+i'j\"k", "\u00e9 e\u0301", "new\nline", "file:x::y")
ODD = "a%20b?c#d e;f&g+'h\"é"


@pytest.mark.slow
def test_a_store_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    (tmp_path / "note.md").write_text("hello")
    (tmp_path / "stores").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for name in STORES:
        said: list[str] = []
        store = Store.at(tmp_path / "stores" / name)
        tracker = Tracker(store, info=said.append)
        tracker.start("run", "workflow")
        tracker.artifact("run", tmp_path / "note.md", "texts")
        tracker.end("run", "FINISHED")
        assert (tracker.close(), said) == (0, []), name
        assert files_of(store.root, runs(default_uri(store.root))["run"]) == {"texts/note.md"}
    assert sorted(path.name for path in (tmp_path / "stores").iterdir()) == sorted(STORES)
    assert list((tmp_path / "cwd").iterdir()) == []


def gpt1(*words: str | Path) -> str:
    command = [sys.executable, "-m", "pipeline.cli", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stdout + done.stderr
    return done.stdout


def shown(store: Path, folder: Path) -> dict[str, dict[str, bytes]]:
    """Every run, by its name and id, with its files, as `gpt1 ui` hands them out over HTTP."""
    with ui(store, folder / "ui.log") as uri:
        there = MlflowClient(uri)
        [experiment] = [one for one in there.search_experiments() if one.name == "gpt1"]
        return {
            f"{run.info.run_name} {run.info.run_id}": _files(there, run.info.run_id, folder)
            for run in there.search_runs([experiment.experiment_id])
        }


def _files(there: Any, run: str, folder: Path, inside: str = "") -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for item in there.list_artifacts(run, inside):
        if item.is_dir:
            found |= _files(there, run, folder, item.path)
        else:
            found[item.path] = Path(there.download_artifacts(run, item.path, str(folder))).read_bytes()
    return found


@pytest.mark.slow
def test_a_store_with_an_odd_name_runs_is_shown_and_moves(tmp_path: Path) -> None:
    numbers, workflow, old, new = (tmp_path / f"{ODD} {kind}" for kind in ("numbers", "file.yaml", "old", "new"))
    numbers.mkdir()
    (numbers / "1.txt").write_text("1")
    shutil.copy(TOY, workflow)
    words = ["--file", workflow, "--set", f"numbers.source={numbers}"]
    assert "3 made" in gpt1("run", *words, "--store", old)
    before = shown(old, tmp_path)
    assert {name.partition(" ")[0] for name in before} == {"toy", "numbers", "total", "total[factor=1]", "total[factor=2]"}
    made = {name.partition(" ")[0]: files for name, files in before.items()}
    assert made["total[factor=2]"]["outputs/total.txt"] == b"2\n"
    assert json.loads(made["numbers"]["record.json"])["stage"] == "tests.pipeline.toy.numbers"

    old.rename(new)
    assert "nothing to run" in gpt1("status", *words, "--store", new)
    assert shown(new, tmp_path) == before
    assert "made" in gpt1("run", *words, "--store", new, "--set", "numbers.add=1")
    after = shown(new, tmp_path)
    assert before.items() <= after.items()
    assert b"4\n" in [files.get("outputs/total.txt") for files in after.values()]  # twice (1 + 1), of the second run
    assert "0 records sent, 0 left" in gpt1("track", "sync", "--store", new)
    assert not old.exists()


def test_what_waits_in_a_store_is_sent_after_a_move(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    tracker = Tracker(old, f"http://127.0.0.1:{free_port()}")
    (old / "stage").mkdir(parents=True)
    (old / "stage" / "note.md").write_text("hello")
    tracker.start("run", "workflow")
    tracker.artifact("run", old / "stage" / "note.md")
    tracker.artifact("run", (old / "stage" / "note.md").as_uri(), "by address", 5)
    tracker.end("run", "FINISHED")
    assert tracker.close(0) == 4
    old.rename(new)
    said: list[str] = []
    assert (sync(new, info=said.append).left, said) == (0, [])
    assert files_of(new, runs(default_uri(new))["run"]) == {"note.md", "by address/note.md"}
    assert not old.exists()


def test_an_experiment_that_keeps_files_elsewhere_is_set_aside(tmp_path: Path) -> None:
    store, elsewhere, said = tmp_path / "store", tmp_path / "elsewhere", list[str]()
    store.mkdir()
    there = client(default_uri(store))
    there.create_experiment("gpt1", elsewhere.as_uri())
    (tmp_path / "note.md").write_text("hello")
    tracker = Tracker(store, info=said.append)
    tracker.start("run", "workflow")
    tracker.artifact("run", tmp_path / "note.md")
    assert tracker.close() == 0
    assert files_of(store, runs(default_uri(store))["run"]) == {"note.md"}
    assert {one.name: one.artifact_location for one in there.search_experiments()}["gpt1 1"] == elsewhere.as_uri()
    assert [elsewhere.as_uri() in line for line in said] == [True]
    assert not elsewhere.exists()


@pytest.mark.slow
def test_track_sync_says_why_records_are_left(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, f"http://127.0.0.1:{free_port()}")
    tracker.start("run", "workflow")
    tracker.end("run", "FINISHED")
    assert tracker.close(0) == 2
    (tmp_path / "mlflow.db").mkdir()
    (tmp_path / "mlflow.db" / "file").touch()
    synced = sync(tmp_path, timeout=15)
    assert (synced.sent, synced.left) == (0, 2)
    assert "unable to open database file" in str(synced.trouble)


def test_addresses_of_files_are_paths_quoted() -> None:
    for name in NAMES:
        assert path_of_uri(Path("/data", name).as_uri()) == Path("/data", name)
    assert path_of_uri("file:///data/a b?c#d") == Path("/data/a b?c#d")
    assert path_of_uri("file://localhost/data") == Path("/data")
    for wrong in ("file://data", "file://", "file:///a%00b"):
        with pytest.raises(UserError, match="expected an absolute path"):
            path_of_uri(wrong)


def test_a_folder_that_mlflow_cannot_load_from_is_refused(tmp_path: Path) -> None:
    for name in ("a%20b", "h#f"):
        with pytest.raises(UserError, match="MLflow cannot load"):
            export_mlflow("pretrain", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_where_a_store_cannot_be(tmp_path: Path) -> None:
    for wrong, message in (
        ("file://store", "absolute path"),
        (f"{tmp_path}/a\udcff", "not UTF-8"),
        ("s3://a bucket/x", "s3://bucket"),
    ):
        with pytest.raises(UserError, match=message):
            Store.at(wrong)
    assert Store.at(f"{tmp_path}/a://b").root.name == "b"


@pytest.mark.parametrize("words", [("status", "--store"), ("generate",), ("diff", "--store")])
def test_a_name_that_no_file_can_have_is_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", *words, "a" * 300]
    environment = {**os.environ, "GPT1_STORE": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "File name too long" in done.stderr


def test_paths_on_the_command_line_are_no_yaml() -> None:
    for name in NAMES:
        assert scalar(f"/data/{name} #1: x") == f"/data/{name} #1: x"
    assert scalar("books #1") == "books #1"
    assert scalar("'quoted #1'") == "quoted #1"
    assert scalar("s3://bucket/a: b") == "s3://bucket/a: b"
    assert [scalar(text) for text in ("1e-3", "[a, b]", "true", "x", "")] == [1e-3, ["a", "b"], True, "x", None]


def test_keys_on_s3_are_taken_as_they_are(s3_store: str) -> None:
    for name in (name for name in NAMES if "\n" not in name):
        there = Objects.at(f"{s3_store}/{name}/deep")
        there.write(f"{name}.json", name.encode())
        assert there.entries()[0].key == f"{name}.json"
        found = Objects.at(s3_store).read(f"{name}/deep/{name}.json")
        assert found is not None
        assert found.data == name.encode()
