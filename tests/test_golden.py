"""The golden digests: of the small workflow, and how a difference is found."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from tests import golden
from tests.conftest import write

ORDER = torch.arange(6).reshape(2, 3)
WEIGHT = torch.linspace(-1, 1, 12).reshape(3, 4)
TENSOR = "pretrain: model.safetensors: weight"
IDS = "shard: ids.safetensors: ids"


def digests(store: Path, names: golden.Renamed, **changed: Any) -> golden.Digests:
    """Of a store of two jobs: `shard` of texts and ids, `pretrain` of trained numbers."""
    job, key = changed.get("job", "pretrain"), changed.get("key", "steps")
    shard, pretrain = (store / name / "0" / "try" for name in ("shard", job))
    for folder in (shard, pretrain):
        write(folder, {"report.md": str(store)})
    table = pa.table({"id": [1, 2], "title": [changed.get("title", "A title"), "Other"]})
    pq.write_table(table, shard / "books.parquet")
    save_file({"ids": changed.get("ids", ORDER)}, shard / "ids.safetensors")
    weight = changed.get("weight", WEIGHT).contiguous()
    save_file({"weight": weight}, pretrain / "model.safetensors")
    (pretrain / "metrics.jsonl").write_text(json.dumps({"loss": changed.get("loss", 2.5)}))
    for folder in (shard, pretrain):
        paths = {path.name: str(path.relative_to(store)) for path in folder.iterdir()}
        files = {name: {"key": path, "volatile": False} for name, path in paths.items()}
        record = {"cell": folder.parts[-3], "finished": 1.0, "files": files}
        record["summary"] = {key: 2, "run": str(store)}
        (folder.parent / "record.json").write_text(json.dumps(record))
    return golden.digests(store, names)


@pytest.mark.parametrize(("changed", "exact", "elsewhere"), [
    ({}, [], []),
    ({"title": "Another"}, ["shard: books.parquet: title"], ["shard: books.parquet: title"]),
    ({"ids": ORDER.T.contiguous()}, [IDS], [IDS]),
    ({"ids": ORDER.int()}, [IDS], [IDS]),
    ({"loss": 2.50001}, ["pretrain: metrics.jsonl: loss"], []),
    ({"weight": WEIGHT + 1e-6}, [TENSOR], []),
    ({"weight": WEIGHT * 1.2}, [TENSOR], [TENSOR]),
    ({"weight": WEIGHT.T}, [TENSOR], [TENSOR]),
])  # fmt: skip
def test_a_difference_is_named(changed: Any, exact: Any, elsewhere: Any, tmp_path: Path) -> None:
    """Exactly, and on another CPU or torch, where trained numbers are compared to a tolerance."""
    names = golden.Renamed({}, {})
    before, now = digests(tmp_path / "before", names), digests(tmp_path / "now", names, **changed)
    for is_same, expected in ((True, exact), (False, elsewhere)):
        lines = golden.differences(now, before, is_same)
        assert [line.rpartition(": ")[0] for line in lines] == expected


def test_renamed_jobs_and_keys_are_no_difference(tmp_path: Path) -> None:
    names = golden.Renamed({"training": "pretrain"}, {"max_steps": "steps"})
    before = digests(tmp_path / "before", names)
    now = digests(tmp_path / "now", names, job="training", key="max_steps")
    assert list(golden.differences(now, before, True)) == []


@pytest.mark.slow
def test_the_small_workflow_has_its_golden_digests(
    golden_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["golden", "check", str(golden_run)])
    with pytest.raises(SystemExit) as ended:
        golden.main()
    said = capsys.readouterr().out
    assert (ended.value.code, "0 differences from mini.json" in said) == (0, True), said
