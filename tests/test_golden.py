"""The golden digests: of the small workflow, and how a difference is found."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from tests import golden

ORDER = torch.arange(6).reshape(2, 3)
WEIGHT = torch.linspace(-1, 1, 12).reshape(3, 4)


def write_store(store: Path, weight: torch.Tensor = WEIGHT, **changed: object) -> Path:
    """A store of two jobs: `shard` of texts and ids, `pretrain` of trained numbers."""
    rows = [{"step": 1, "loss": changed.get("loss", 2.5)}, {"step": 2, "loss": 2.0}]
    folders = [store / kind / "0" / "try" for kind in ("shard", "pretrain")]
    for folder in folders:
        folder.mkdir(parents=True)
    title = changed.get("title", "A title")
    pq.write_table(
        pa.table({"id": [1, 2], "title": [title, "Other"]}), folders[0] / "books.parquet"
    )
    save_file({"ids": changed.get("ids", ORDER)}, folders[0] / "ids.safetensors")
    save_file({"weight": weight.contiguous()}, folders[1] / "model.safetensors")
    (folders[1] / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folders[1] / "report.md").write_text(str(changed))
    for folder, summary in zip(folders, ({"books": 2}, {"steps": 2}), strict=True):
        names = [path.name for path in folder.iterdir()]
        files = {
            n: {"path": str((folder / n).relative_to(store)), "volatile": False} for n in names
        }
        kind = folder.parts[-3]
        record = {
            "cell": kind, "finished": 1.0, "summary": summary, "files": files, "run": str(store),
        }
        (folder.parent / "record.json").write_text(json.dumps(record))
    return store


def found(tmp_path: Path, is_same: bool = True, **changed: object) -> list[str]:
    """Where a changed store differs from the unchanged one."""
    names = golden.Renamed({}, {})
    before = golden.digests(write_store(tmp_path / "before"), names)
    now = golden.digests(write_store(tmp_path / "now", **changed), names)  # type: ignore[arg-type]
    return [line.rpartition(": ")[0] for line in golden.differences(now, before, is_same)]


@pytest.mark.parametrize(
    ("changed", "exact", "elsewhere"),
    [
        ({}, [], []),
        ({"title": "Another"}, ["shard: books.parquet: title"], ["shard: books.parquet: title"]),
        (
            {"ids": ORDER.T.contiguous()}, ["shard: ids.safetensors: ids"],
            ["shard: ids.safetensors: ids"],
        ),
        ({"ids": ORDER.int()}, ["shard: ids.safetensors: ids"], ["shard: ids.safetensors: ids"]),
        ({"loss": 2.50001}, ["pretrain: metrics.jsonl: loss"], []),
        ({"weight": WEIGHT + 1e-6}, ["pretrain: model.safetensors: weight"], []),
        ({"weight": WEIGHT * 1.2}, *[["pretrain: model.safetensors: weight"]] * 2),
        ({"weight": WEIGHT.T}, *[["pretrain: model.safetensors: weight"]] * 2),
    ],
)
def test_a_difference_names_job_file_and_place(
    changed: dict[str, object], exact: list[str], elsewhere: list[str], tmp_path: Path
) -> None:
    """Exactly, and on another CPU or torch, where trained numbers are compared to a tolerance."""
    assert found(tmp_path / "exact", **changed) == exact
    assert found(tmp_path / "elsewhere", is_same=False, **changed) == elsewhere


def test_renamed_jobs_and_keys_are_no_difference(tmp_path: Path) -> None:
    before = golden.digests(write_store(tmp_path / "store"), golden.Renamed({}, {}))
    record = tmp_path / "store" / "pretrain" / "0" / "record.json"
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "cell": "training", "summary": {"max_steps": 2}}))
    names = golden.Renamed({"training": "pretrain"}, {"max_steps": "steps"})
    assert list(golden.differences(golden.digests(tmp_path / "store", names), before, True)) == []
    today = golden.digests(tmp_path / "store", golden.Renamed({}, {}))
    assert {line.partition(":")[0] for line in golden.differences(today, before, True)} == {
        "pretrain",
        "training",
    }


@pytest.mark.slow
def test_the_small_workflow_has_its_golden_digests(
    golden_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["golden", "check", str(golden_run)])
    with pytest.raises(SystemExit) as ended:
        golden.main()
    assert ended.value.code == 0, capsys.readouterr().out
    assert "0 differences from mini.json" in capsys.readouterr().out
