"""`gpt1 tasks` and `gpt1 data get`, as a person runs them, without a network."""

from pathlib import Path

import pytest

from gpt1.tasks.io import Example, read_plain_examples
from tests.conftest import refuses
from tests.e2e.workflow import gpt1 as alone
from tests.pipeline.inprocess import gpt1, refused


def test_the_list_holds_the_twelve_tasks_and_the_papers_figures() -> None:
    rows = {row["name"]: row for row in gpt1("tasks", "--json").json()}
    assert rows["mnli"]["paper"] == {"accuracy/matched": 82.1, "accuracy/mismatched": 81.4}
    assert (rows["race"]["hub"]["repo"], rows["storycloze"]["hub"]) == ("ehovy/race", None)
    assert len([row for row in rows.values() if row["paper"] and row["name"] != "wnli"]) == 12
    assert len(gpt1("tasks").out.splitlines()) == len(rows) + 1


def test_without_a_network_one_clear_line(tmp_path: Path) -> None:
    # In a process of its own: the library reads the variables when it is imported.
    hub = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = alone("data", "get", "cola", "sst2", "--to", str(tmp_path), timeout=100, **hub)
    [line] = done.stderr.splitlines()
    assert (done.returncode, line.startswith("gpt1: CoLA: nyu-mll/glue could not")) == (2, True)
    files = ", ".join(f"cola/{split}-*.parquet" for split in ("train", "validation", "test"))
    assert f"copy {files} of that dataset into {tmp_path}" in line


def test_what_may_not_be_downloaded_is_said(tmp_path: Path) -> None:
    ended = gpt1("data", "get", "storycloze", "dprd", "--to", tmp_path)
    assert (ended.status, ended.out.count(": not downloaded; ask at https://")) == (0, 2), ended
    refused("did you mean 'cola'", "data", "get", "colla")
    refused("books are downloaded alone", "data", "get", "cola", "--limit", 0)


@pytest.mark.parametrize(("name", "text", "found"), [
    ("a.txt", "one\ttwo\r\n\nthree", [Example("1", ("one", "two")), Example("3", ("three",))]),
    ("a.jsonl", '{"texts": "one", "choices": ["x"], "id": 7}', [Example("7", ("one",), ("x",))]),
    ("a.txt", "\n", "no examples found"), ("a.txt", "\udcff", "cannot be read as UTF-8"),
    ("a.jsonl", '{"texts": ["one"]}\n[]', r"row 2: found \[\]; expected a JSON object"),
    ("a.jsonl", "[" * 99_999, "row 1: not JSON .*recursion"),
    ("a.jsonl", '{"texts": [1]}', "row 1: expected lists of strings"),
    ("a.jsonl", '{"texts": "one", "choices": "x"}', "row 1: expected lists of strings"),
])  # fmt: skip
def test_a_file_of_examples(name: str, text: str, found: object, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, errors="surrogateescape", newline="")
    if isinstance(found, str):
        refuses(found, read_plain_examples, tmp_path / name)
    else:
        assert read_plain_examples(tmp_path / name) == found
