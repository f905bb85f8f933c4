"""`gpt1 pack`: the folder it writes trains by itself, wherever it lies, and ends as a checkpoint."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpt1.data.shards import TokenShards
from gpt1.errors import UserError
from gpt1.train.pretrain_config import from_json
from gpt1.weights.checkpoint import load_checkpoint
from pipeline.commands.pack import pack
from pipeline.plan import Selection
from tests.conftest import ROOT
from tests.pipeline.inline import plan_of, run_inline

TINY = ROOT / "tests" / "stages" / "pretrain_workflow.yaml"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    run_inline(plan_of(TINY, folder, selection=Selection(stages=("shard",))))
    return str(folder)


def test_the_folder_trains_elsewhere(store: str, tmp_path: Path) -> None:
    pack(tmp_path / "packed", file=TINY, assignments=["pretrain.steps=12", "pretrain.warmup=2"], store=store)
    folder = Path(shutil.move(tmp_path / "packed", tmp_path / "moved"))
    command = [sys.executable, "-m", "gpt1.train.pretrain", "--config", str(folder / "run.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    checkpoint = load_checkpoint(folder / "output")
    assert checkpoint.model.config == from_json(folder / "run.json")[0].model
    assert '"step": 12' in (folder / "output" / "metrics.jsonl").read_text().splitlines()[-1]


def test_a_part_of_the_text(store: str, tmp_path: Path) -> None:
    tokens = []
    for name, parts in (("all", None), ("one", 1)):
        pack(tmp_path / name, file=TINY, store=store, parts=parts)
        _, place = from_json(tmp_path / name / "run.json")
        tokens.append(TokenShards.open([Path(path) for path in place.train], Path(place.books), "train").tokens)
    assert 0 < tokens[1] < tokens[0]
    with pytest.raises(UserError, match="there is something already"):
        pack(tmp_path / "one", file=TINY, store=store)


def test_what_is_not_made_or_not_named_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shard is not made yet.*run `gpt1 run shard`"):
        pack(tmp_path / "packed", file=TINY, store=str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"--cell.*pretrain\[model=gpt\], pretrain\[model=lstm\]"):
        pack(tmp_path / "packed", file=ROOT / "workflow.yaml", store=str(tmp_path / "empty"))
    assert not (tmp_path / "packed").exists()
