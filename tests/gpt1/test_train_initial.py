"""The weights training begins with are those that it was given, on every rank."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.text.vocabulary import Vocabulary
from gpt1.train.pretrain_config import Place, PretrainConfig
from gpt1.weights.checkpoint import Checkpoint, save_checkpoint
from gpt1.weights.store import load_model
from tests.gpt1.rank_group import RankError, RankGroup
from tests.gpt1.tiny_pretraining import CONFIG, VOCABULARY, Heard, changed, train_here, write_data

STILL = dataclasses.replace(CONFIG, steps=1, warmup=0, max_lr=1e-12)


def given_weights(file: Path, model: GPT, vocabulary: Vocabulary = VOCABULARY) -> PretrainConfig:
    """A configuration that begins with these weights, which are written there."""
    save_checkpoint(file.parent, Checkpoint(model, vocabulary))
    return dataclasses.replace(STILL, initial_sha256=hashlib.sha256(file.read_bytes()).hexdigest())


def test_training_begins_with_them_and_refuses_others(tmp_path: Path) -> None:
    model, file = GPT(CONFIG.model), tmp_path / "given" / "model.safetensors"
    config = given_weights(file, model)
    place = changed(write_data(tmp_path), init_from=str(file.parent))
    train_here(config, place)
    begun = load_model(Path(place.output)).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, begun[name], atol=1e-9), name
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    vocabulary = Vocabulary.from_merges(list("abcdehx"), [("a", "b"), ("b", "a")])
    wider = GPT(dataclasses.replace(CONFIG.model, width=32))
    other = GPT(dataclasses.replace(CONFIG.model, vocabulary=vocabulary.size))
    again = changed(place, output=str(tmp_path / "again"))
    other_file = f"{file} has sha256 {found}, expected {config.initial_sha256}"
    with pytest.raises(UserError, match=other_file):
        train_here(config, again)
    with pytest.raises(UserError, match=r"another shape .width 32, here 16"):
        train_here(given_weights(file, wider), again)
    shutil.rmtree(file.parent)
    with pytest.raises(UserError, match=rf"another vocabulary .{vocabulary.size} tokens"):
        train_here(given_weights(file, other, vocabulary), again)


def begins_from(folders: list[str], config: PretrainConfig, place: Place) -> Heard:
    """Called on every rank, each of which has a folder of its own."""
    return train_here(config, changed(place, init_from=folders[int(os.environ["RANK"])]))


@pytest.mark.slow
def test_a_rank_without_them_ends_the_others(ranks: RankGroup, tmp_path: Path) -> None:
    """Rank 1's host has no such folder."""
    config = given_weights(tmp_path / "given" / "model.safetensors", GPT(CONFIG.model))
    folders = [str(tmp_path / name) for name in ("given", "missing")]
    with pytest.raises(RankError) as refused:
        ranks.call(begins_from, folders, config, write_data(tmp_path))
    for said in refused.value.args:
        assert said.startswith(f"UserError: rank 1: {folders[1]}: no such folder")
