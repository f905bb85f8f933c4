"""Readers on the real files beside the project, and on small files in the published layouts for the rest."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from gpt1.errors import UserError
from gpt1.tasks.readers import read_task
from gpt1.tasks.table import TASKS, task_named

SNLI = ("snli_1.0_train.jsonl", "snli_1.0_dev.jsonl", "snli_1.0_test.jsonl")
CLOZE_HEADER = (
    "InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,"
    "AnswerRightEnding"
)


@pytest.fixture(scope="session")
def glue(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("glue")
    with tarfile.open(shared / "data" / "tasks" / "glue.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "stsb", "rte", "wnli"])
def test_whole_sets_have_the_official_rows(name: str, glue: Path) -> None:
    task = TASKS[name]
    found = read_task(task, glue)
    assert {split: len(found[split].examples) for split in found} == dict(task.rows)
    assert all(example.label is not None for example in found["dev"].examples)
    assert all(example.label is None for example in found["test"].examples)


def test_sampled_sets(glue: Path) -> None:
    mnli, qnli, qqp = (read_task(TASKS[name], glue) for name in ("mnli", "qnli", "qqp"))
    assert [len(mnli[split].examples) for split in ("train", "dev")] == [9999, 9815 + 1000]
    assert {example.group for example in mnli["dev"].examples} == {"matched", "mismatched"}
    assert [len(qnli[split].examples) for split in ("train", "dev")] == [19476, 5463]
    assert {example.label for example in qnli["train"].examples} == {0, 1}
    assert [len(qqp[split].examples) for split in ("train", "dev")] == [9999, 10000]


def test_known_rows(glue: Path) -> None:
    cola = read_task(TASKS["cola"], glue)["dev"].examples[0]
    assert (cola.texts, cola.label) == (("The sailors rode the breeze clear of the rocks.",), 1)
    stsb = read_task(TASKS["stsb"], glue)["dev"].examples[1]
    assert (stsb.texts, stsb.label) == (("A young child is riding a horse.", "A child is riding a horse."), 4.75)
    rte = read_task(TASKS["rte"], glue)["dev"].examples[1]
    assert (rte.texts[1], TASKS["rte"].labels[int(rte.label or 0)]) == (
        "Bacteria is winning the war against antibiotics.",
        "entailment",
    )


@pytest.mark.slow
def test_race_whole(shared: Path, tmp_path: Path) -> None:
    with tarfile.open(shared / "data" / "tasks" / "RACE.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    found = read_task(TASKS["race"], tmp_path)
    assert {split: len(found[split].examples) for split in found} == dict(TASKS["race"].rows)


def test_dprd(shared: Path) -> None:
    found = read_task(TASKS["dprd"], shared / "data" / "tasks")
    assert {split: len(found[split].examples) for split in found} == dict(TASKS["dprd"].rows)
    first = found["dev"].examples[0]
    assert (first.texts, first.choices, first.label) == (
        ("The sniper shot the terrorist because", "was a bad guy."),
        ("The sniper", "the terrorist"),
        1,
    )


def write_race(folder: Path, **changes: object) -> None:
    for split in ("train", "dev", "test"):
        for group in ("middle", "high"):
            place = folder / "RACE" / split / group
            place.mkdir(parents=True, exist_ok=True)
            passage = {
                "article": "One day.",
                "questions": ["When?", "Where?"],
                "options": [["a", "b", "c", "d"], ["e", "f", "g", "h"]],
                "answers": ["B", "D"],
                "id": "1.txt",
            }
            (place / "1.txt").write_text(json.dumps({**passage, **changes}))


def test_race(tmp_path: Path) -> None:
    write_race(tmp_path)
    examples = read_task(TASKS["race"], tmp_path)["dev"].examples
    assert [(e.id, e.texts, e.label, e.group) for e in examples[:2]] == [
        ("middle-1-0", ("One day.", "When?"), 1, "middle"),
        ("middle-1-1", ("One day.", "Where?"), 3, "middle"),
    ]
    assert len(examples) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": ["B", "E"]}, r"1\.txt, question 2: the right answer is 'E'; A, B, C or D"),
        ({"options": [["a", "b", "c", "d"], ["e"]]}, r"question 2: 1 answers; 4 were expected"),
        ({"answers": ["B"]}, r"differ in number"),
    ],
)
def test_race_faults(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    write_race(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        read_task(TASKS["race"], tmp_path)


def write_snli(folder: Path, *labels: str) -> None:
    for name in SNLI:
        rows = [{"gold_label": label, "sentence1": f"A {label}.", "sentence2": "B.", "pairID": "1"} for label in labels]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_snli_drops_rows_without_agreement(tmp_path: Path) -> None:
    write_snli(tmp_path, "neutral", "-", "contradiction", "entailment")
    found = read_task(TASKS["snli"], tmp_path)["train"]
    assert [example.label for example in found.examples] == [1, 2, 0]
    assert found.dropped == {"label -": 1}


def test_snli_faults(tmp_path: Path) -> None:
    write_snli(tmp_path, "neutral", "perhaps")
    with pytest.raises(
        UserError, match=r"snli_1\.0_train\.jsonl, row 2: unknown label 'perhaps'; labels of SNLI: entailment, neutral"
    ):
        read_task(TASKS["snli"], tmp_path)
    (tmp_path / SNLI[0]).write_text('{"gold_label": "neutral", "sentence1": "A."}\n')
    with pytest.raises(UserError, match=r"row 1: no 'sentence2' in it"):
        read_task(TASKS["snli"], tmp_path)
    (tmp_path / SNLI[0]).write_text("no json\n")
    with pytest.raises(UserError, match=r"row 1: not JSON"):
        read_task(TASKS["snli"], tmp_path)
    (tmp_path / SNLI[1]).unlink()
    with pytest.raises(UserError, match=r"snli_1\.0_dev\.jsonl is missing"):
        read_task(TASKS["snli"], tmp_path)


def test_scitail(tmp_path: Path) -> None:
    folder = tmp_path / "SciTailV1.1" / "tsv_format"
    folder.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        (folder / f"scitail_1.0_{split}.tsv").write_text('A "quoted premise.\tA hypothesis.\tentails\nB.\tC.\tneutral\n')
    found = read_task(TASKS["scitail"], tmp_path)
    assert [(e.texts, e.label) for e in found["test"].examples] == [(('A "quoted premise.', "A hypothesis."), 0), (("B.", "C."), 1)]
    (folder / "scitail_1.0_dev.tsv").write_text("A.\tneutral\n")
    with pytest.raises(UserError, match=r"scitail_1\.0_dev\.tsv, row 1: 2 columns; 3 were expected"):
        read_task(TASKS["scitail"], tmp_path)
    (folder / "scitail_1.0_dev.tsv").write_text("")
    with pytest.raises(UserError, match=r"no dev examples of SciTail"):
        read_task(TASKS["scitail"], tmp_path)


def write_cloze(folder: Path, *rows: str) -> None:
    for part in ("val", "test"):
        file = folder / f"cloze_test_{part}__spring2016 - cloze_test_ALL_{part}.csv"
        file.write_text("\n".join([CLOZE_HEADER, *rows]) + "\n")


def test_story_cloze(tmp_path: Path) -> None:
    write_cloze(tmp_path, *(f'id{n},"He came, saw.",Two.,Three.,Four.,Good end.,Bad end.,{1 + n % 2}' for n in range(10)))
    found = read_task(TASKS["storycloze"], tmp_path)
    assert {split: len(found[split].examples) for split in found} == {"train": 8, "dev": 2, "test": 10}
    first = found["test"].examples[1]
    assert (first.texts, first.choices, first.label) == (("He came, saw. Two. Three. Four.",), ("Good end.", "Bad end."), 1)
    assert {e.id for e in found["train"].examples} & {e.id for e in found["dev"].examples} == set()
    write_cloze(tmp_path, "id0,One.,Two.,Three.,Four.,Good.,Bad.,3")
    with pytest.raises(UserError, match=r"row 2: AnswerRightEnding is '3'; 1 or 2 was expected"):
        read_task(TASKS["storycloze"], tmp_path)


def test_the_released_split_of_story_cloze(tmp_path: Path) -> None:
    write_cloze(tmp_path, *(f"id{n},One.,Two.,Three.,Four.,Good.,Bad.,1" for n in range(1871)))
    found = read_task(TASKS["storycloze"], tmp_path)
    assert [len(found[split].examples) for split in ("train", "dev")] == [1497, 374]


def write_glue(folder: Path, name: str, header: str, *rows: str) -> None:
    (folder / name).mkdir(exist_ok=True)
    for split in ("train", "dev"):
        (folder / name / f"{split}.tsv").write_text("\n".join([header, *rows]) + "\n")


def test_qqp_leaves_out_broken_rows_and_counts_them(tmp_path: Path) -> None:
    write_glue(tmp_path, "QQP", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "0\t1\t2\tA?\tB?\t1", "3\t4\t5\tbroken")
    found = read_task(TASKS["qqp"], tmp_path)["train"]
    assert (len(found.examples), found.dropped) == (1, {"too few columns": 1})


def test_glue_faults(tmp_path: Path) -> None:
    write_glue(tmp_path, "RTE", "index\tsentence1\tsentence2\tgold", "0\tA.\tB.\tentailment")
    with pytest.raises(UserError, match=r"row 1: no column 'label'; columns found: index, sentence1, sentence2, gold"):
        read_task(TASKS["rte"], tmp_path)
    write_glue(tmp_path, "STS-B", "index\tsentence1\tsentence2\tscore", "0\tA.\tB.\t5.5")
    with pytest.raises(UserError, match=r"row 2: the score is '5\.5'; a number from 0 to 5"):
        read_task(TASKS["stsb"], tmp_path)
    with pytest.raises(UserError, match=r"train\.tsv is missing"):
        read_task(TASKS["mrpc"], tmp_path)
    (tmp_path / "RTE" / "train.tsv").write_bytes(b"index\tsentence1\xff")
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 15\)"):
        read_task(TASKS["rte"], tmp_path)


def test_an_unknown_task_gets_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'demo_choice'"):
        task_named("demo_choise")


def test_lambada_in_both_published_layouts(tmp_path: Path) -> None:
    passage = 'He reached for the door, " she said. " She opened the'
    rows = [json.dumps({"text": text}) + "\n" for text in (f"{passage} door", "one two")]
    (tmp_path / "lambada_test.jsonl").write_text("".join(rows))
    found = read_task(TASKS["lambada"], tmp_path)["dev"].examples
    assert [example.texts for example in found] == [(passage, "door"), ("one", "two")]
    (tmp_path / "lambada_test.jsonl").unlink()
    (tmp_path / "lambada_test_plain_text.txt").write_text(f"{passage} door\none two\n")
    again = read_task(TASKS["lambada"], tmp_path)["dev"].examples
    assert [example.texts for example in again] == [example.texts for example in found]
    assert {example.label for example in found} == {1}


BAD_LAMBADA = [('{"text": 3}', "no text under `text`"), ("{", "not JSON"), ('{"text": "word"}', "two words")]


@pytest.mark.parametrize(("line", "message"), BAD_LAMBADA)
def test_bad_lambada_rows_are_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "lambada_test.jsonl").write_text('{"text": "one two"}\n' + line + "\n")
    with pytest.raises(UserError, match=message) as caught:
        read_task(TASKS["lambada"], tmp_path)
    assert "row 2" in str(caught.value)


WSC_XML = """<?xml version="1.0" encoding="utf-8"?>
<collection>
  <schema>
    <text>
      <txt1>The city councilmen refused the demonstrators a permit because
      </txt1>
      <pron>they</pron>
      <txt2> feared violence.</txt2>
    </text>
    <quote><quote1></quote1><pron>they</pron><quote2>feared violence</quote2></quote>
    <answers><answer>The city councilmen</answer><answer>The demonstrators</answer></answers>
    <correctAnswer>A.</correctAnswer>
    <source>(Winograd 1972)</source>
  </schema>
</collection>
"""


def test_wsc273_in_both_layouts(tmp_path: Path) -> None:
    (tmp_path / "WSCollection.xml").write_text(WSC_XML)
    [found] = read_task(TASKS["wsc273"], tmp_path)["dev"].examples
    before, after = "The city councilmen refused the demonstrators a permit because", "feared violence."
    assert (found.texts, found.label) == ((before, after), 0)
    assert found.choices == ("The city councilmen", "The demonstrators")
    row = {"text": f"{before} they {after}", "pronoun": "they", "pronoun_loc": len(before) + 1, "label": 0}
    row["options"] = list(found.choices)
    (tmp_path / "wsc273.jsonl").write_text((json.dumps(row) + "\n") * 285)
    split = read_task(TASKS["wsc273"], tmp_path)["dev"]
    assert len(split.examples) == 273
    assert split.dropped == {"beyond the first 273": 12}
    assert (split.examples[0].texts, split.examples[0].choices) == (found.texts, found.choices)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<correctAnswer>A.", "<correctAnswer>C.", "correctAnswer A or B"),
        ("<answer>The demonstrators</answer>", "", "two options"),
        ("</collection>", "", "not XML"),
        ("<collection>", "<!DOCTYPE x [<!ENTITY a 'b'>]><collection>", "XML entities"),
    ],
)
def test_bad_schemas_are_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "WSCollection.xml").write_text(WSC_XML.replace(old, new))
    with pytest.raises(UserError, match=message):
        read_task(TASKS["wsc273"], tmp_path)
