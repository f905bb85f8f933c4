"""What is handed in: the server's file names, headers and labels, and the same zip every time."""

from __future__ import annotations

import io
import json
import zipfile

from gpt1.tasks.example import Example
from gpt1.tasks.submission import GLUE_FILES, forms, glue_zip, missing_from_glue
from gpt1.tasks.table import TASKS


def rows(count: int, *groups: str) -> list[Example]:
    return [Example(f"test-{n + 2}", ("A.", "B."), group=group) for group in groups or ("",) for n in range(count)]


def test_classes_are_numbers_inference_is_words_scores_stay_in_range() -> None:
    assert forms(TASKS["cola"], rows(3), [1, 0, 1]) == {"CoLA.tsv": b"index\tprediction\n0\t1\n1\t0\n2\t1\n"}
    assert forms(TASKS["rte"], rows(2), [1, 0]) == {"RTE.tsv": b"index\tprediction\n0\tnot_entailment\n1\tentailment\n"}
    assert forms(TASKS["stsb"], rows(3), [3.14159, -0.2, 5.4]) == {
        "STS-B.tsv": b"index\tprediction\n0\t3.142\n1\t0.000\n2\t5.000\n"
    }
    assert forms(TASKS["snli"], rows(2), [1, 0]) == {}


def test_mnli_is_two_files_each_counted_from_zero() -> None:
    found = forms(TASKS["mnli"], rows(2, "matched", "mismatched"), [0, 1, 2, 0])
    assert found == {
        "MNLI-m.tsv": b"index\tprediction\n0\tentailment\n1\tneutral\n",
        "MNLI-mm.tsv": b"index\tprediction\n0\tcontradiction\n1\tentailment\n",
    }


def test_story_cloze_and_race_have_the_published_files_forms() -> None:
    stories = [Example("abc", ("S.",), ("x", "y")), Example("def", ("S.",), ("x", "y"))]
    assert forms(TASKS["storycloze"], stories, [1, 0]) == {"StoryCloze.csv": b"InputStoryid,AnswerRightEnding\nabc,2\ndef,1\n"}
    questions = [Example(f"high-12-{n}", ("D", "Q"), tuple("abcd"), 0, "high") for n in range(2)]
    questions += [Example("middle-7-0", ("D", "Q"), tuple("abcd"), 0, "middle")]
    [content] = forms(TASKS["race"], questions, [3, 0, 1]).values()
    assert json.loads(content) == {"high/12.txt": ["D", "A"], "middle/7.txt": ["B"]}


def test_the_zip_holds_the_servers_names_and_is_the_same_every_time() -> None:
    files = {name: b"index\tprediction\n" for task in GLUE_FILES.values() for name in task.values()}
    packed = glue_zip(files)
    assert packed == glue_zip(dict(reversed(files.items())))
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(files)
        assert archive.read("QNLI.tsv") == b"index\tprediction\n"
    assert missing_from_glue(list(files)) == []
    assert missing_from_glue(["CoLA.tsv"])[:2] == ["SST-2.tsv", "MRPC.tsv"]
