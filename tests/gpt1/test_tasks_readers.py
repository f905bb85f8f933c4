"""Readers: the real files where they are, small files in each publisher's layout, and the hub's."""

import json
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt1.errors import UserError
from gpt1.tasks import readers
from gpt1.tasks.readers import read_task
from gpt1.tasks.registry import TASKS, Column, SplitFile, Task, task_named
from tests.conftest import refuses, write


@pytest.fixture(scope="session")
def glue(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("glue")
    shutil.unpack_archive(shared / "data/tasks/glue.tar.xz", folder, filter="data")
    return folder


@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "stsb", "rte", "wnli", "dprd"])
def test_complete_sets_have_the_official_rows(name: str, glue: Path, shared: Path) -> None:
    found = read_task(TASKS[name], shared / "data" / "tasks" if name == "dprd" else glue)
    assert {split: len(found[split].examples) for split in found} == dict(TASKS[name].rows)
    assert all(example.label is not None for example in found["dev"].examples)
    if "test" in found:
        assert all(example.label is None for example in found["test"].examples)


def test_sampled_sets_and_known_rows(glue: Path) -> None:
    mnli, qnli, qqp = (read_task(TASKS[name], glue) for name in ("mnli", "qnli", "qqp"))
    counts = [len(one[split].examples) for one in (mnli, qnli, qqp) for split in ("train", "dev")]
    assert counts == [9999, 9815 + 1000, 19476, 5463, 9999, 10000]
    assert {example.group for example in mnli["dev"].examples} == {"matched", "mismatched"}
    for name, place, text, label in (
        ("cola", 0, "The sailors rode the breeze clear of the rocks.", 1),
        ("stsb", 1, "A child is riding a horse.", 4.75),
        ("rte", 1, "Bacteria is winning the war against antibiotics.", 0),
    ):
        known = read_task(TASKS[name], glue)["dev"].examples[place]
        assert (known.texts[-1], known.label) == (text, label)


@pytest.mark.slow
def test_race_has_the_official_rows(shared: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(shared / "data/tasks/RACE.tar.xz", tmp_path, filter="data")
    found = read_task(TASKS["race"], tmp_path)
    assert {split: len(found[split].examples) for split in found} == dict(TASKS["race"].rows)


FILES = {
    "snli": "snli_1.0/snli_1.0_{}.jsonl", "scitail": "SciTailV1.1/tsv_format/scitail_1.0_{}.tsv",
    "race": "RACE/{}/{{}}/1.txt",
    "storycloze": "cloze_test_{0}__spring2016 - cloze_test_ALL_{0}.csv", "rte": "RTE/{}.tsv",
    "stsb": "STS-B/{}.tsv", "qqp": "QQP/{}.tsv", "dprd": "dpr/{}.c.txt",
    "lambada": "lambada_test.jsonl", "lambada text": "lambada_test_plain_text.txt",
    "wsc273": "WSCollection.xml", "wsc273 lines": "wsc273.jsonl",
}
"""The publishers' names; of two layouts of a task the second has two words."""
CLOZE_HEADER = f"InputStoryid,{','.join(f'InputSentence{n}' for n in range(1, 5))},"
CLOZE_HEADER += "RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding\n"
QQP = "question1\tquestion2\tis_duplicate\nA?\tB?\t1\nbroken\tB?\n"


def stories(count: int, answer: str = "2") -> str:
    row = 'id{},"He came, saw.",Two.,Three.,Four.,Good.,Bad.,{}\n'
    return CLOZE_HEADER + "".join(row.format(number, answer) for number in range(count))


def lines(*rows: Mapping[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def snli(*labels: str) -> str:
    return lines(*({"gold_label": one, "sentence1": "A.", "sentence2": "B."} for one in labels))


def race(**changes: object) -> str:
    passage = {
        "article": "One day.", "questions": ["When?", "Where?"], "answers": ["B", "D"],
        "options": [["a", "b", "c", "d"], ["e", "f", "g", "h"]],
    }  # fmt: skip
    return json.dumps({**passage, **changes})


COUNCIL = ("The city councilmen refused the demonstrators a permit because", "feared violence.")
COUNCIL_OPTIONS = ("The city councilmen", "The demonstrators")
WSC_XML = f"""<?xml version="1.0" encoding="utf-8"?>
<collection><schema>
  <text><txt1>{COUNCIL[0]}
  </txt1><pron>they</pron><txt2> {COUNCIL[1]}</txt2></text>
  <quote><quote1></quote1><pron>they</pron><quote2>feared violence</quote2></quote>
  <answers><answer>The city councilmen</answer><answer>The demonstrators</answer></answers>
  <correctAnswer>A.</correctAnswer><source>(Winograd 1972)</source>
</schema></collection>
"""
WSC_ROW = {
    "text": " they ".join(COUNCIL), "pronoun": "they", "pronoun_loc": len(COUNCIL[0]) + 1,
    "label": 0, "options": COUNCIL_OPTIONS,
}  # fmt: skip
DOOR = 'He reached for the door, " she said. " She opened the'
SNIPER = "The sniper shot the terrorist because he was bad.\nhe\nThe sniper,the terrorist\n"
STORY = (("He came, saw. Two. Three. Four.",), ("Good.", "Bad."), 1, "")
SHOT_TEXTS = ("The sniper shot the terrorist because", "was bad.")
SHOT = (SHOT_TEXTS, ("The sniper", "the terrorist"), 1, "")
COUNCILMEN = (COUNCIL, COUNCIL_OPTIONS, 0, "")

Found = tuple[int, dict[str, int], tuple[object, ...]]
"""How many dev examples, what was left out, and the first one."""
PUBLISHED: list[tuple[str, str, Found]] = [
    ("snli", snli("neutral", "-", "entailment"), (2, {"label -": 1}, (("A.", "B."), (), 1, ""))),
    ("scitail", 'A "q.\tB.\tentails\n' * 2, (2, {}, (('A "q.', "B."), (), 0, ""))),
    ("race", race(), (4, {}, (("One day.", "When?"), tuple("abcd"), 1, "middle"))),
    ("storycloze", stories(10), (2, {}, STORY)), ("storycloze", stories(1871), (374, {}, STORY)),
    ("qqp", QQP, (1, {"too few columns": 1}, (("A?", "B?"), (), 1, ""))),
    ("lambada", lines({"text": f"{DOOR} door"}), (1, {}, ((DOOR, "door"), (), 1, ""))),
    ("lambada text", f"{DOOR} door\none two\n", (2, {}, ((DOOR, "door"), (), 1, ""))),
    ("wsc273", WSC_XML, (1, {}, COUNCILMEN)),
    ("wsc273 lines", lines(WSC_ROW) * 285, (273, {"beyond the first 273": 12}, COUNCILMEN)),
    ("dprd", f"{SNIPER}The terrorist\n\n{SNIPER}The sniper\n", (2, {}, SHOT)),
]


def publish(folder: Path, layout: str, content: str | bytes) -> None:
    """Write `content` into a file for each split, under all names that publishers have for one."""
    for split in ("train", "dev", "val", "test"):
        for group in ("middle", "high"):
            write(folder, {FILES[layout].format(split).format(group): content})


@pytest.mark.parametrize(("layout", "content", "found"), PUBLISHED)
def test_each_layout_is_read(layout: str, content: str, found: Found, tmp_path: Path) -> None:
    count, dropped, first = found
    task = layout.split()[0]
    publish(tmp_path, layout, content)
    splits = read_task(TASKS[task], tmp_path)
    assert splits.keys() == TASKS[task].rows.keys()
    dev, one = splits["dev"], splits["dev"].examples[0]
    assert (len(dev.examples), dev.dropped) == (len({e.id for e in dev.examples}), dropped)
    assert (len(dev.examples), one.texts, one.choices, one.label, one.group) == (count, *first)
    if task == "storycloze":  # dev is drawn from the labeled file, and no story is in both
        ids = [one.id for split in ("train", "dev") for one in splits[split].examples]
        assert len(set(ids)) == len(ids) == len(splits["test"].examples)


RTE = "index\tsentence1\tsentence2\t{}\n0\tA.\tB.\t{}\n"

def test_an_unknown_task_and_a_missing_file_are_named(tmp_path: Path) -> None:
    refuses("did you mean 'demo_choice'", task_named, "demo_choise")
    refuses(r"train\.tsv is missing", read_task, TASKS["mrpc"], tmp_path)


def test_a_choice_of_the_users_names_its_columns(tmp_path: Path) -> None:
    """All answers in a list, or each in a column."""
    row = {"ask": "When?", "key": "B", "answers": ["now", "then"], "a": "now", "b": "then"}
    write(tmp_path, {"rows.jsonl": lines(row), "rows.tsv": "\n".join(map("\t".join, TABLE))})
    for layout, columns in (("jsonl", ("answers",)), ("tsv", ("a", "b"))):
        files = {split: (SplitFile(f"rows.{layout}"),) for split in ("train", "dev")}
        column = Column(("ask",), "key", columns)
        task = Task("my.own", "Own", "choice", (), ("accuracy",), layout, "", files, column, 2)
        [found] = read_task(task, tmp_path)["dev"].examples
        assert (found.texts, found.choices, found.label) == (("When?",), ("now", "then"), 1)


TABLE = [("ask", "a", "b", "key"), ("When?", "now", "then", "B")]
Rows = Sequence[Mapping[str, Any]]
HUBS = {task.name: task.hub for task in TASKS.values() if task.hub}
LABELS: Mapping[str, Any] = {"stsb": 4.75, "race": "C", "scitail": "neutral"}
"""A good label of each copy on the hub; 1 in the others."""


def hub_row(task: str, **changes: object) -> dict[str, Any]:
    texts = {str(name): f"A {name}." for name in HUBS[task].columns.texts}
    about = {"options": list("abcd"), "example_id": "high1.txt"} if task == "race" else {"idx": 0}
    return {**texts, str(HUBS[task].columns.label): LABELS.get(task, 1), **about, **changes}


def write_shards(folder: Path, split: str, rows: Rows, shards: int = 1) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{split}-{n:05d}-of-{shards:05d}.parquet" for n in range(shards)]
    for shard, path in enumerate(paths):
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows[shard::shards]]), path)
    return paths


def write_copy(folder: Path, task: str, rows: Rows, test: Rows | None = None) -> Path:
    """A copy of a data set with these rows in each configuration and split."""
    for ours in HUBS[task].files:
        for config, split in HUBS[task].parts(ours):
            write_shards(folder / config, split, rows if ours != "test" or test is None else test)
    return folder


@pytest.mark.parametrize("task", HUBS)
def test_every_copy_on_the_hub_is_read(task: str, tmp_path: Path) -> None:
    hub = HUBS[task]
    kept_back = {str(hub.columns.label): -1} if hub.kept_back else {}
    write_copy(tmp_path / hub.repo, task, [hub_row(task)], [hub_row(task, **kept_back)])
    found = read_task(TASKS[task], tmp_path)
    expected = {"stsb": 4.75, "race": 2}.get(task, 1)
    labels = {split: {example.label for example in found[split].examples} for split in found}
    kept = None if hub.kept_back else expected
    assert labels == {"train": {expected}, "dev": {expected}, "test": {kept}}
    groups = {source.group for source in hub.files["dev"]}
    dev = {example.id: example.group for example in found["dev"].examples}
    assert (set(dev.values()), len(dev)) == (groups, len(groups))
    if TASKS[task].dropped_label and not hub.kept_back:  # the annotators did not agree
        write_copy(tmp_path / hub.repo, task, [hub_row(task, label=n) for n in (0, -1, 2)])
        test = read_task(TASKS[task], tmp_path)["test"]
        assert [example.label for example in test.examples] == [0, 2]
        assert test.dropped == {"label -": 1}


def test_all_shards_are_read_in_order_and_the_publishers_come_first(tmp_path: Path) -> None:
    rows = [hub_row("rte", sentence1=f"Number {n}.") for n in range(6)]
    _, second = write_shards(tmp_path / "rte", "train", rows, 2)
    write_shards(tmp_path / "rte", "validation", rows)
    found = read_task(TASKS["rte"], tmp_path)
    numbers = [example.texts[0] for example in found["train"].examples]
    assert numbers == [f"Number {n}." for n in (0, 2, 4, 1, 3, 5)]
    assert "test" not in found
    second.unlink()
    refuses("1 shards of train, expected 2", read_task, TASKS["rte"], tmp_path)
    publish(tmp_path, "rte", RTE.format("label", "entailment"))
    assert read_task(TASKS["rte"], tmp_path)["dev"].examples[0].label == 0


FAULTS: list[tuple[str, Any, str]] = [
    ("rte", {"label": 2}, r"train-0+-of-00001\.parquet, row 2: label is 2; .* one of 0, 1 \(ent"),
    ("rte", {"sentence2": None}, "row 2: sentence2 is None; expected a text"),
    ("stsb", {"label": 7.5}, r"row 2: label is 7\.5; expected a number from 0 to 5"),
    ("scitail", {"label": "maybe"}, "row 2: label is 'maybe'; expected one of entails, neutral"),
    ("race", {"answer": "E"}, "row 2: answer is 'E'; expected one of A, B, C, D"),
    ("race", race(answers=["B", "E"]), r"1\.txt, question 2: .* is 'E'"),
    ("race", race(options=[["a", "b", "c", "d"], ["e"]]), "question 2: 1 an"),
    ("race", race(answers=["B"]), r"1\.txt: .* differ in number"),
    ("snli", snli("neutral", "maybe"), "row 2: gold_label is 'maybe'; .*entailment, neutral"),
    ("snli", "no json\n", r"snli_1\.0_train\.jsonl, row 1: not JSON"),
    ("scitail", "A.\tneutral\n", r"scitail_1\.0_train\.tsv, row 1: 2 columns; expected 3"),
    ("scitail", "", r"scitail_1\.0_train\.tsv: no train examples"),
    ("storycloze", stories(9, "3"), "row 2: AnswerRightEnding is '3'; expected one of 1, 2"),
    ("storycloze", stories(4), "4 labeled stories; expected at least 5"),
    ("storycloze", "a,b\n", "row 1: no column 'InputStoryid'; columns found: a, b"),
    ("rte", RTE.format("gold", "entailment"), "row 1: no column 'label'; .*, gold"),
    ("stsb", RTE.format("score", "5.5"), r"row 2: score is '5\.5'"),
    ("rte", b"index\tsentence1\xff", r"train\.tsv: not UTF-8 text \(byte 15\)"),
    ("dprd", "One.\n\nTwo.\n", r"train\.c\.txt, row 1: a block of 1 lines"),
    ("dprd", "She ran.\nhe\nA,B\nA\n", "row 1: the pronoun 'he' does not occur"),
    ("lambada", '{"text": "word"}\n', "row 1: found 'word'; expected a passage of two"),
    ("wsc273", WSC_XML.replace(">A.", ">C."), "schema 1: .* and correctAnswer 'C'; .* A or B"),
    ("wsc273", f"<!DOCTYPE x [<!ENTITY a 'b'>]>{WSC_XML[39:]}", "XML entities"),
    ("wsc273 lines", lines({**WSC_ROW, "pronoun_loc": 3}), "row 1: .* at pronoun_loc 3"),
    ("wsc273 lines", lines({**WSC_ROW, "pronoun_loc": "x"}), "row 1: .* at pronoun_loc 'x'"),
    ("wsc273 lines", lines({**WSC_ROW, "options": "ab"}), "row 1: 0 answers; expected 2"),
    ("wsc273 lines", lines({"text": 1}), "row 1: text is 1; expected a text"),
    ("race", {"options": None}, "row 2: 0 answers; expected 4"),
    ("race", race(article=["One day."]), "no 'article' in it, or of another type"),
    ("snli", "[1]\n", r"row 1: found \[1\]; expected a JSON object"),
    ("snli", lines({"gold_label": "neutral", "sentence1": "A."}), "row 1: no 'sentence2' in it"),
    ("snli", snli("neutral").replace("A.", "\\ud800"), "row 1: not JSON .*surrogates not allowed"),
    ("snli", snli("x" * 9_999), r"row 1: gold_label is '(x{79})\.\.\.; expected"),
    ("storycloze", stories(5) + '"' + "x" * 140_000, "not comma-sep.*131072.*mark that is not cl"),
    *((layout, "[" * 99_999, "1.*: not JSON .*recursion") for layout in ("snli", "race")),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "content", "message"), FAULTS)
def test_a_fault_is_named(layout: str, content: Any, message: str, tmp_path: Path) -> None:
    """Of a publisher's file, or of a copy on the hub, whose second row has this change."""
    if isinstance(content, dict):
        write_copy(tmp_path, layout, [hub_row(layout), hub_row(layout, **content)])
    else:
        publish(tmp_path, layout, content)
    refuses(message, read_task, TASKS[layout.split()[0]], tmp_path)


HOSTILE = ("[" * 99_999, '"' + "x" * 140_000, b"\xff\xfe\x00", "", "\0" * 99, "9" * 5_000)


@pytest.mark.parametrize("layout", FILES)
def test_whatever_is_in_the_place_of_a_file_is_one_message(layout: str, tmp_path: Path) -> None:
    """And a changed file is read, or refused like that."""
    task, draw = TASKS[layout.split()[0]], random.Random(layout)
    for content in HOSTILE:
        publish(tmp_path, layout, content)
        assert len(refuses(f"{tmp_path}.*(; |expected )", read_task, task, tmp_path)) < 600
    good = next((one for name, one, _ in PUBLISHED if name == layout), "").encode()[:3_000]
    for _ in range(40 if good else 0):
        at, size = draw.randrange(len(good)), draw.choice((0, 1, 1, 20))
        changed = good[:at] + draw.randbytes(draw.choice((0, 1))) + good[at + size :]
        publish(tmp_path, layout, changed)
        with suppress(UserError):
            read_task(task, tmp_path)
    for file in [path for path in tmp_path.rglob("*") if path.is_file()]:
        file.unlink()
        file.mkdir()
    refuses("cannot be read .Is a directory.; expected the publ", read_task, task, tmp_path)


def test_a_wrong_column_a_damaged_file_and_a_missing_split(tmp_path: Path) -> None:
    [train] = write_shards(tmp_path / "rte", "train", [{"sentence1": "A.", "gold": 1}])
    [dev] = write_shards(tmp_path / "rte", "validation", [hub_row("rte")])
    reading = (read_task, TASKS["rte"], tmp_path)
    refuses("no column 'sentence2'; columns found: sentence1, gold", *reading)
    names = ["sentence1", "sentence1", "sentence2", "label"]
    twice = pa.table([["A."], ["B."], ["C."], [1]], names=names)
    pq.write_table(twice, train)
    refuses("several columns are called 'sentence1'", *reading)
    train.write_bytes(b"PAR1 and nothing else")
    refuses(rf"{train.name}: not a complete Parquet file .*download it again", *reading)
    write_shards(tmp_path / "rte", "train", [hub_row("rte")])
    dev.unlink()
    refuses(rf"{dev.name} is missing; .*download the hub's copy with `gpt1 data get rte`", *reading)
    write_copy(tmp_path / "half", "mnli", [hub_row("mnli")])
    [half] = (tmp_path / "half" / "mnli").glob("validation_mismatched-*")
    half.unlink()
    refuses(f"{half.name} is missing", read_task, TASKS["mnli"], tmp_path / "half")


def abort(*_: object) -> None:
    """What some damaged files make pyarrow do."""
    os.abort()


def test_a_copy_that_would_fill_the_memory_or_end_its_reader_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_copy(tmp_path, "rte", [hub_row("rte")])
    [train] = (tmp_path / "rte").glob("train-*")
    rows = pa.array([0] * 2_000, pa.int32())
    texts = (pa.DictionaryArray.from_arrays(rows, [text]) for text in ("x" * 400_000, "A."))
    table = pa.table([rows, *texts], ["label", "sentence1", "sentence2"])
    found = "it expands to more than 100 times its compressed size"
    for as_dictionary in (True, False):
        pq.write_table(table, train, store_schema=as_dictionary)
        refuses(f"{train}: {found}; download it again", read_task, TASKS["rte"], tmp_path)
    monkeypatch.setattr(readers, "_parquet_rows", abort)
    found = "its reader died of SIGABRT"
    refuses(f"{train}: {found}; download it again", read_task, TASKS["rte"], tmp_path)
