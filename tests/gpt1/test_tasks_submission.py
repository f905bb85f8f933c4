"""What is handed in: the server's file names, headers and labels, and the same zip every time."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from gpt1.tasks.example import Example
from gpt1.tasks.submission import GLUE_FILES, forms, glue_zip, missing_from_glue
from gpt1.tasks.table import TASKS

Labels = dict[str, list[str]]
FORMS: list[tuple[str, list[float], Labels]] = [
    ("cola", [1, 0, 1], {"CoLA.tsv": ["1", "0", "1"]}),
    ("rte", [1, 0], {"RTE.tsv": ["not_entailment", "entailment"]}),
    ("stsb", [3.14159, -0.2, 5.4], {"STS-B.tsv": ["3.142", "0.000", "5.000"]}),
    ("snli", [1, 0], {}),
    ("mnli", [0, 1, 2, 0],  # each counted from zero
     {"MNLI-m.tsv": ["entailment", "neutral"], "MNLI-mm.tsv": ["contradiction", "entailment"]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "predictions", "expected"), FORMS)
def test_files_of_the_server(name: str, predictions: list[float], expected: Labels) -> None:
    groups = ["matched"] * 2 + ["mismatched"] * 2 if name == "mnli" else [""] * len(predictions)
    rows = [Example(f"test-{n}", ("A.", "B."), group=one) for n, one in enumerate(groups)]
    found = {}
    for file, content in forms(TASKS[name], rows, predictions).items():
        header, *lines = (line.split("\t") for line in content.decode().splitlines())
        assert header == ["index", "prediction"]
        assert [line[0] for line in lines] == [str(n) for n in range(len(lines))]
        found[file] = [line[1] for line in lines]
    assert found == expected


def test_story_cloze_and_race_have_the_published_files_forms() -> None:
    endings = [Example(name, ("S.",), ("x", "y")) for name in ("abc", "def")]
    content = b"InputStoryid,AnswerRightEnding\nabc,2\ndef,1\n"
    assert forms(TASKS["storycloze"], endings, [1, 0]) == {"StoryCloze.csv": content}
    names = ("high-12-0", "high-12-1", "middle-7-0")
    questions = [Example(n, ("D", "Q"), tuple("abcd"), 0, n.split("-")[0]) for n in names]
    [content] = forms(TASKS["race"], questions, [3, 0, 1]).values()
    assert json.loads(content) == {"high/12.txt": ["D", "A"], "middle/7.txt": ["B"]}


def test_the_zip_holds_the_servers_names_and_is_the_same_every_time() -> None:
    files = {name: b"index\tprediction\n" for task in GLUE_FILES.values() for name in task.values()}
    packed = glue_zip(files)
    assert packed == glue_zip(dict(reversed(files.items())))
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.namelist() == sorted(files)
        assert archive.read("QNLI.tsv") == b"index\tprediction\n"
    assert missing_from_glue(list(files)) == []
    assert missing_from_glue(["CoLA.tsv"])[:2] == ["SST-2.tsv", "MRPC.tsv"]
