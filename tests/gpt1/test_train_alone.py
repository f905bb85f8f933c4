"""Training needs a handful of packages: machines with GPUs often have nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.gpt1.tiny_pretraining import write_data, write_json

FEW = "torch,numpy,safetensors,pyarrow,pydantic"


def run_with(packages: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A module with its arguments, where only `packages` are installed."""
    command = [sys.executable, "-m", "tests.only", packages, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("launcher", ["", "torch.distributed.run --standalone -m"])
def test_a_rank_alone_pre_trains_without_deepspeed(launcher: str, tmp_path: Path) -> None:
    assert "No module named deepspeed" in run_with(FEW, "deepspeed").stderr
    place = write_data(tmp_path)
    file = tmp_path / "run.json"
    write_json(file, place)
    done = run_with(FEW, *launcher.split(), "gpt1.train.pretrain", "--config", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (Path(place.output) / "model.safetensors").is_file()


@pytest.mark.parametrize("module", ["gpt1.tasks.finetune_packed", "gpt1.tasks.zero_shot"])
def test_fine_tuning_needs_no_deepspeed(module: str) -> None:
    """tests/pipeline/test_pack.py runs a packed folder so."""
    assert run_with(FEW, module, "--help").returncode == 0
