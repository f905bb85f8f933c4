"""Reading the hub's layout: Parquet files written here as the hub's are, whole and with every fault a row can have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt1.errors import UserError
from gpt1.tasks.readers import read_task, source_files
from gpt1.tasks.table import PAPER_TASKS, TASKS

Rows = Sequence[Mapping[str, Any]]


def write(folder: Path, config: str, splits: Mapping[str, Rows], shards: int = 1) -> Path:
    place = folder / config
    place.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        for shard in range(shards):
            part = list(rows)[shard::shards]
            pq.write_table(
                pa.Table.from_pylist([dict(row) for row in part]), place / f"{split}-{shard:05d}-of-{shards:05d}.parquet"
            )
    return folder


def rows_of(task: str, label: Any) -> dict[str, Any]:
    hub = TASKS[task].hub
    assert hub is not None
    texts = {str(name): f"A {name}." for name in hub.columns.texts}
    if task == "race":
        return {"example_id": "high1.txt", **texts, "answer": label, "options": ["a", "b", "c", "d"]}
    return {**texts, "label": label, "idx": 0}


def all_splits(task: str, label: Any, test_label: Any) -> dict[str, dict[str, Rows]]:
    """By configuration."""
    hub = TASKS[task].hub
    assert hub is not None
    made: dict[str, dict[str, Rows]] = {}
    for ours, parts in hub.parts.items():
        for config, split, _ in parts:
            made.setdefault(config, {})[split] = [rows_of(task, test_label if ours == "test" else label)]
    return made


@pytest.mark.parametrize("task", [task.name for task in PAPER_TASKS if task.hub] + ["wnli"])
def test_every_copy_on_the_hub_is_read(task: str, tmp_path: Path) -> None:
    hub = TASKS[task].hub
    assert hub is not None
    label = {"stsb": 4.75, "race": "C", "scitail": "neutral"}.get(task, 1)
    for config, splits in all_splits(task, label, -1 if hub.kept_back else label).items():
        write(tmp_path / hub.repo, config, splits)
    found = read_task(TASKS[task], tmp_path)
    assert set(found) == {"train", "dev", "test"}
    expected = {"stsb": 4.75, "race": 2}.get(task, 1)
    assert {example.label for split in ("train", "dev") for example in found[split].examples} == {expected}
    assert {example.label for example in found["test"].examples} == {None if hub.kept_back else expected}
    groups = {group for _, _, group in hub.parts["dev"]}
    assert {example.group for example in found["dev"].examples} == groups
    assert len({example.id for example in found["dev"].examples}) == len(groups)


def test_the_publishers_own_files_come_first(tmp_path: Path) -> None:
    write(tmp_path / "nyu-mll" / "glue", "rte", {s: [rows_of("rte", 1)] for s in ("train", "validation", "test")})
    assert source_files(TASKS["rte"], tmp_path)["dev"][0][0].path == "hub/rte/validation-00000-of-00001.parquet"
    (tmp_path / "RTE").mkdir()
    for split in ("train", "dev"):
        (tmp_path / "RTE" / f"{split}.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n")
    assert read_task(TASKS["rte"], tmp_path)["dev"].examples[0].label == 0


def test_rows_without_agreement_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [rows_of("snli", label) for label in (0, -1, 2)]
    write(tmp_path / "snli", "plain_text", dict.fromkeys(("train", "validation", "test"), rows))
    found = read_task(TASKS["snli"], tmp_path)
    assert [example.label for example in found["test"].examples] == [0, 2]
    assert found["train"].dropped == {"label -": 1}


def test_shards_are_read_in_order_and_none_may_miss(tmp_path: Path) -> None:
    rows = [{**rows_of("rte", n % 2), "sentence1": f"Number {n}."} for n in range(6)]
    write(tmp_path, "rte", {"train": rows, "validation": rows}, shards=2)
    found = read_task(TASKS["rte"], tmp_path)
    assert [example.texts[0] for example in found["train"].examples] == [f"Number {n}." for n in (0, 2, 4, 1, 3, 5)]
    assert "test" not in found
    (tmp_path / "rte" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match="1 shards of train where their names say 2"):
        read_task(TASKS["rte"], tmp_path)


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("rte", {"label": 2}, r"train-00000-of-00001\.parquet, row 2: unknown label 2; labels of RTE: 0 to 1 \(entailment"),
        ("rte", {"label": -1}, r"row 2: unknown label -1"),
        ("rte", {"sentence2": None}, r"row 2: sentence2 is None; a text was expected"),
        ("stsb", {"label": 7.5}, r"row 2: the score is 7\.5; a number from 0 to 5"),
        ("scitail", {"label": "maybe"}, r"row 2: unknown label 'maybe'; labels of SciTail: entails, neutral"),
        ("race", {"answer": "E"}, r"row 2: the right answer is 'E'; one of A, B, C, D"),
        ("race", {"answer": ""}, r"row 2: the right answer is ''"),
        ("race", {"options": ["a"]}, r"row 2: 1 answers; 4 were expected"),
    ],
)
def test_faults_name_file_and_row(task: str, change: Mapping[str, Any], message: str, tmp_path: Path) -> None:
    good = rows_of(task, {"stsb": 1.0, "race": "A", "scitail": "neutral"}.get(task, 1))
    hub = TASKS[task].hub
    assert hub is not None
    for parts in hub.parts.values():
        for config, split, _ in parts:
            write(tmp_path, config, {split: [good, {**good, **change}]})
    with pytest.raises(UserError, match=message):
        read_task(TASKS[task], tmp_path)


def test_a_wrong_column_a_damaged_file_and_a_missing_split(tmp_path: Path) -> None:
    good = rows_of("rte", 1)
    write(tmp_path, "rte", {"train": [{**good, "gold": 1}], "validation": [good]})
    table = pq.read_table(tmp_path / "rte" / "train-00000-of-00001.parquet").drop_columns(["label"])
    pq.write_table(table, tmp_path / "rte" / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"no column 'label'; columns found: sentence1, sentence2, idx, gold"):
        read_task(TASKS["rte"], tmp_path)
    (tmp_path / "rte" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet: not a whole Parquet file .*fetch it again"):
        read_task(TASKS["rte"], tmp_path)
    (tmp_path / "rte" / "validation-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match=r"validation-00000-of-00001\.parquet is missing; `gpt1 data get rte` fetches it"):
        read_task(TASKS["rte"], tmp_path)


def test_an_empty_dev_set(tmp_path: Path) -> None:
    write(tmp_path, "rte", {"train": [rows_of("rte", 1)], "validation": [rows_of("rte", 1)]})
    path = tmp_path / "rte" / "validation-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(UserError, match="no dev examples of RTE in it; at least one row is needed"):
        read_task(TASKS["rte"], tmp_path)
