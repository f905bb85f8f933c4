"""The weights training begins with are those that it was told, on every rank."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.train.checkpoint_record import sha256
from gpt1.train.initial import initial_model
from gpt1.train.pretrain_config import Place, PretrainConfig, to_json
from gpt1.weights.checkpoint import Checkpoint, save_checkpoint
from tests.conftest import ROOT
from tests.gpt1.tiny_pretraining import CONFIG, VOCABULARY, changed, launcher, write_data


def given_weights(folder: Path) -> tuple[GPT, PretrainConfig]:
    """A checkpoint written into `folder`, and a configuration that begins with it."""
    model = GPT(CONFIG.model, torch.Generator().manual_seed(5))
    save_checkpoint(folder, Checkpoint(model, VOCABULARY))
    return model, dataclasses.replace(CONFIG, initial_sha256=sha256(folder / "model.safetensors"))


def test_another_file_than_the_one_in_the_record_is_refused(tmp_path: Path) -> None:
    model, config = given_weights(tmp_path)
    place = Place((), (), "", "", "", init_from=str(tmp_path))
    begun = initial_model(config, place, VOCABULARY).state_dict()
    assert all(torch.equal(tensor, begun[name]) for name, tensor in model.state_dict().items())
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    with pytest.raises(UserError, match=f"{file} has sha256 {sha256(file)}, expected {config.initial_sha256}; another file"):
        initial_model(config, place, VOCABULARY)


@pytest.mark.slow
def test_a_rank_that_cannot_load_them_ends_the_others_too(tmp_path: Path) -> None:
    """Rank 1's host has no such folder."""
    _, config = given_weights(tmp_path / "given")
    place = changed(write_data(tmp_path), preflight=False)
    (tmp_path / "run.json").write_text(to_json(config, place))
    worker = [
        str(ROOT / "tests" / "gpt1" / "initial_worker.py"),
        *(str(tmp_path / name) for name in ("run.json", "given", "missing")),
    ]
    done = subprocess.run([sys.executable, *launcher(2), *worker], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in (0, 1):
        assert f"rank {rank} ended with: rank 1: {tmp_path / 'missing'}: no such folder" in done.stdout, done.stdout
