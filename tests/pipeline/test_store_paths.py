"""Stores and sources at any legal path; and a store that was moved: MLflow shows the same."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from gpt1.paths import path_of_uri
from pipeline.cli.models import export_mlflow
from pipeline.cli.options import ReadOptions
from pipeline.store.base import Store
from pipeline.workflow.yaml_source import scalar
from tests.conftest import refuses
from tests.pipeline.inline import TOY, write_numbers
from tests.pipeline.inprocess import refused, said
from tests.pipeline.test_tracking import client, runs
from tests.servers.mlflow import ui
from tests.servers.ray_cluster import Cluster

NAMES = (
    "a%20b", "c%2Fd", "q?x=1", "h#f", "a space", "semi;colon", "am&p", "pl+us", "q'\"s", "\u00e9",
    "e\u0301", "new\nline", "100%", "file:x", "a::b", "[x]*", "$HOME", "back\\slash",
)  # fmt: skip
ODD = "file:a%20b%2F?c#d e;f&g+'h\"\u00e9e\u0301\n::\\"


def shown(store: Path, folder: Path) -> dict[str, tuple[str, dict[str, bytes]]]:
    """Every run, by its name and id: its description, and its files as `gpt1 ui` serves them."""
    found = {}
    with ui(store, folder / "ui.log") as uri:
        for run in runs(uri).values():
            here = folder / "shown" / run.info.run_id
            here.mkdir(parents=True, exist_ok=True)
            client(uri).download_artifacts(run.info.run_id, "", str(here))
            paths = [path for path in here.rglob("*") if path.is_file()]
            files = {str(path.relative_to(here)): path.read_bytes() for path in paths}
            note = run.data.tags.get("mlflow.note.content", "")
            found[f"{run.info.run_name} {run.info.run_id}"] = (note, files)
    return found


@pytest.mark.slow
def test_a_store_with_an_odd_name_runs_and_moves(ray_head: Cluster, tmp_path: Path) -> None:
    numbers, workflow, old, new = (tmp_path / f"{ODD}{kind}" for kind in ("1", "2.yaml", "3", "4"))
    write_numbers(numbers, 1)
    shutil.copy(TOY, workflow)

    words = ["run", "--file", workflow, "--set", f"numbers.source={numbers}", "--store"]
    said(*words, old, cluster=ray_head)
    before = shown(old, tmp_path)
    made = {name.partition(" ")[0]: found for name, found in before.items()}
    ids = {name.partition(" ")[0]: name.rpartition(" ")[2] for name in before}
    assert set(made) == {"toy:", "numbers", "total", "total[factor=1]", "total[factor=2]"}
    note, files = made["total[factor=2]"]
    assert files["outputs/total.txt"] == b"2\n"
    assert f"#/runs/{ids['numbers']}" in note

    old.rename(new)
    assert "nothing to run" in said(*words, new)
    said(*words, new, "--set", "numbers.add=1", cluster=ray_head)
    after = shown(new, tmp_path)
    assert before.items() <= after.items()
    # Twice (1 + 1), of the second run.
    assert b"4\n" in [files.get("outputs/total.txt") for _, files in after.values()]
    assert "0 runs sent, none missing" in said("track", "sync", "--store", new)
    assert not old.exists()


def test_addresses_of_files_are_paths_quoted_and_paths_are_no_yaml() -> None:
    for name in NAMES:
        assert path_of_uri(Path("/data", name).as_uri()) == Path("/data", name)
        assert scalar(f"/data/{name} #1: x") == f"/data/{name} #1: x"
    assert path_of_uri("file:///data/a b?c#d") == Path("/data/a b?c#d")
    assert path_of_uri("file://localhost/data") == Path("/data")
    for wrong in ("file://data", "file://", "file:///a%00b"):
        refuses("expected an absolute path", path_of_uri, wrong)
    yaml: dict[str, Any] = {
        "books #1": "books #1", "'quoted #1'": "quoted #1", "s3://bucket/a: b": "s3://bucket/a: b",
        "1e-3": 1e-3, "[a, b]": ["a", "b"], "true": True, "x": "x", "": None,
    }  # fmt: skip
    assert {text: scalar(text) for text in yaml} == yaml


def test_where_a_store_or_a_model_can_and_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for wrong, message in (
        ("file://store", "absolute path"), (f"{tmp_path}/a\udcff", "not UTF-8"),
        (tmp_path / "file" / "store", "cannot be used as a store"),
    ):  # fmt: skip
        refuses(message, Store.at, wrong)
    assert Store.at(f"{tmp_path}/a://b").root.name == "b"
    assert Store.at(f"file://{tmp_path}/a%20store").root == (tmp_path / "a store").resolve()
    for name in ("a%20b", "h#f"):
        refuses("MLflow cannot load", export_mlflow, "pretrain", tmp_path / name, ReadOptions())
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("words", ["status --store", "generate", "diff --store"])
def test_a_name_that_no_file_can_have_is_one_line(words: str, tmp_path: Path) -> None:
    told = refused("File name too long", *words.split(), "a" * 300, GPT1_STORE=str(tmp_path))
    assert len(told.splitlines()) == 1, told
