"""What a training begins with: rates, settings files, memory, given weights; and the
estimates of what it needs (benchmarks/link.py measures traffic)."""

import dataclasses
import functools
import hashlib
import itertools
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.train import memory as memory_room
from gpt1.train import metrics
from gpt1.train._deepspeed_private import import_deepspeed
from gpt1.train.config import Schedule, from_json
from gpt1.train.cost_model import expected_seconds, parts
from gpt1.train.memory import Memory, checkpoint_bytes, free_memory, memory, read_groups
from gpt1.train.trainer import learning_rate
from gpt1.weights.checkpoint import Checkpoint, save_checkpoint
from gpt1.weights.store import load_model
from tests.gpt1 import tiny_pretraining as tiny
from tests.gpt1.rank_group import RankError, RankGroup
from tests.gpt1.tiny_pretraining import MODEL, VOCABULARY, Heard, Place, changed, train_here

COSINE = 0.5 * (1 + math.cos(math.pi / 4))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return tiny.write_data(tmp_path)


@pytest.mark.parametrize(("schedule", "quarter"), [("cosine", COSINE), ("linear", 0.75)])
def test_rate_rises_and_falls(schedule: Schedule, quarter: float) -> None:
    rate = functools.partial(learning_rate, max_lr=2.0, schedule=schedule)
    rates = [rate(step, warmup=10, steps=110) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert max(rates) == rates[9] == 2.0
    assert all(later < earlier for earlier, later in itertools.pairwise([*rates[9:], 0.0]))
    assert rate(24, warmup=0, steps=99) == pytest.approx(2 * quarter)


WRONG = [
    ('{"config": {"deepspeed": {"bf16": {}}}}', "bf16, which follows from precision"),
    ('{"config": {"deepspeed": {"zero_optimization": {"stage": 2}}}}', "without stage; set zero"),
    ('{"config": {"zero": 4}}', "config.zero: Input should be 0, 1, 2 or 3"),
    ('{"config": {}, "runtime": {"books": ""}}', "runtime.train: Field required"),
    ('{"config": {}, "runtime": {"train": "a"}}', "runtime.train: Input should be a valid tuple"),
    ('{"config": {"deepspeed": {"bf61": {}}}}', "found 'bf61', expected keys among"),
    ("{", "not a pre-training configuration"), (None, "no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "named"), WRONG)
def test_wrong_files_are_refused(text: str | None, named: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    if text:
        file.write_text(text)
    with pytest.raises(UserError, match=named):
        from_json(file)


@pytest.mark.slow
def test_deepspeed_s_refusal_names_the_override(ranks: RankGroup, place: Place) -> None:
    wrong = changed(place, deepspeed={"zero_optimization": {"overlap": True}})
    with pytest.raises(RankError, match=r"UserError: deepspeed: DeepSpeed refuses .*overlap"):
        tiny.train_on(ranks, wrong)


# Version 2: the process's group has no limit of its own, the one above has. Version 1: a container.
SECOND = {"job/step/memory.max": "max", "job/step/memory.current": "10", "job/memory.max": "1000"}
SECOND |= {"job/memory.current": "700", "job/memory.stat": "anon 400\ninactive_file 250"}
SECOND |= {"../groups": "0::/job/step"}
FIRST = {"memory/memory.limit_in_bytes": "500", "memory/memory.usage_in_bytes": "100"}
FIRST |= {"memory/memory.stat": "total_inactive_file 50"}
FIRST |= {"../groups": "4:memory:/docker/abc\n3:cpuset:/\n0::/"}
GROUPS = [(SECOND, [1000 - 700 + 250]), (FIRST, [450]), ({}, [])]


@pytest.mark.parametrize(("files", "free"), GROUPS)
def test_memory_left_in_a_group(files: dict[str, str], free: list[int], tmp_path: Path) -> None:
    for name, value in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    assert list(read_groups(tmp_path / "groups", tmp_path / "cgroup")) == free
    assert 0 < (free_memory(torch.device("cpu")) or 0) <= psutil.virtual_memory().total


def test_what_cannot_fit_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_room, "WAIT", 0.0)
    huge = ModelConfig(vocabulary=VOCABULARY.size, context=8, width=16_384, layers=96, heads=64)
    with pytest.raises(UserError, match="does not fit in memory") as refused:
        train_here(changed(place, width=16_384, layers=96, heads=64))
    need = r": about ([\d.]+) GB per rank"
    option = r"(?:micro_batch_size 1|activation_check)[^;]*\(([\d.]+) GB per rank"
    found = [re.findall(pattern, str(refused.value)) for pattern in (option, need)]
    small, less, most = map(float, (*found[0], *found[1]))
    assert small <= less <= most > 16 * huge.parameters() / 1e9


SHORT = {"max_steps": 1, "warmup_steps": 0, "lr": 1e-12}


def given_weights(folder: Path, model: GPT, vocabulary: Vocabulary = VOCABULARY) -> dict[str, str]:
    """What says to begin with these weights, which are written there."""
    shutil.rmtree(folder, ignore_errors=True)
    save_checkpoint(folder, Checkpoint(model, vocabulary))
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return {"initial": str(folder), "initial_sha256": digest}


def test_training_begins_with_given_weights_and_refuses_others(
    place: Place, tmp_path: Path
) -> None:
    model, folder, place = GPT(MODEL), tmp_path / "given", changed(place, **SHORT)
    first = given_weights(folder, model)
    train_here(changed(place, **first))
    begun = load_model(Path(place.output)).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, begun[name], atol=1e-9), name
    vocabulary = Vocabulary.from_merges(list("abcdehx"), [("a", "b"), ("b", "a")])
    wider = GPT(dataclasses.replace(MODEL, width=32))
    other = GPT(dataclasses.replace(MODEL, vocabulary=vocabulary.size))
    again, digest = changed(place, output=str(tmp_path / "again")), first["initial_sha256"]
    with pytest.raises(UserError, match=r"another shape .width 32, here 16"):
        train_here(changed(again, **given_weights(folder, wider)))
    with pytest.raises(UserError, match=rf"model\.safetensors has sha256 \w+, expected {digest}"):
        train_here(changed(again, **first))
    with pytest.raises(UserError, match="another vocabulary"):
        train_here(changed(again, **given_weights(folder, other, vocabulary)))


def begins_from(folders: list[str], place: Place) -> Heard:
    """Called on every rank, each of which has a folder of its own."""
    return train_here(changed(place, initial=folders[int(os.environ["RANK"])]))


@pytest.mark.slow
def test_a_rank_without_them_ends_the_others(
    ranks: RankGroup, place: Place, tmp_path: Path
) -> None:
    """Rank 1's host has no such folder."""
    begun = changed(place, **SHORT, **given_weights(tmp_path / "given", GPT(MODEL)))
    folders = [str(tmp_path / name) for name in ("given", "missing")]
    with pytest.raises(RankError) as refused:
        ranks.call(begins_from, folders, begun)
    for said in refused.value.args:
        assert said.startswith(f"UserError: rank 1: {folders[1]}: no such folder")


PAPER = ModelConfig()
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("model", [PAPER, ModelConfig(kind="lstm", layers=1)])
def test_parts_add_up_and_are_the_model_s(model: ModelConfig) -> None:
    found = parts(model)
    assert sum(part.parameters for part in found) == model.parameters()
    assert sum(part.flops for part in found) == pytest.approx(model.flops_per_token())
    with torch.device("meta"):
        blocks = GPT(model).h.parameters()
    assert found[2].parameters == sum(p.numel() for p in blocks)


def test_each_stage_of_zero_shares_more_and_chunks_save_logits() -> None:
    def need(
        micro_batch: int = 8, ranks: int = 4, model: ModelConfig = PAPER, **more: Any
    ) -> Memory:
        return memory(model, micro_batch=micro_batch, ranks=ranks, bf16=True, **{"zero": 1, **more})

    large = ModelConfig(width=4096, layers=36, heads=32)  # more than DeepSpeed gathers at a time
    first, second, third = (need(model=large, zero=zero) for zero in (1, 2, 3))
    assert first.total > second.total > third.total
    first = need()
    assert first.optimizer == 16 * PAPER.parameters() // 4
    assert need(64, 1).logits > 5e9 > 2.5e9 > need(64, 1, loss_chunk=4096).logits
    assert need(recompute=True).activations < first.activations / 4


def count_kept(model: ModelConfig, bf16: bool) -> int:
    """Bytes that the forward pass of a micro-batch of 2 keeps for the backward pass, each tensor
    once, without parameters and their bf16 copies, which have as many elements.
    """
    gpt, found = GPT(model), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.nbytes() // tensor.element_size() not in sizes:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    sizes = {parameter.numel() for parameter in gpt.parameters()}
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = gpt(torch.zeros(2, model.context, dtype=torch.int64))
    assert hidden.requires_grad
    return sum(found.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_memory_counts_what_a_block_keeps(dropout: float, bf16: bool) -> None:
    """Means and deviations of the layer norms are beside the estimate."""
    shape = ModelConfig(vocabulary=50, context=48, width=80, heads=5, dropout=dropout)
    one, two = (dataclasses.replace(shape, layers=layers) for layers in (3, 4))
    kept = count_kept(two, bf16) - count_kept(one, bf16)
    need = functools.partial(memory, micro_batch=2, ranks=1, zero=0, bf16=bf16, cpu=True)
    assert kept == pytest.approx(need(two).activations - need(one).activations, rel=0.02)


def test_fp32_is_slower_than_bf16() -> None:
    fp32, bf16 = (expected_seconds(PAPER, 1e9, "NVIDIA H100", 1, bf16=on) for on in (False, True))
    assert fp32 / bf16 == pytest.approx(989 / 67)


def test_an_untested_deepspeed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import deepspeed

    monkeypatch.setattr(deepspeed, "__version__", "0.20.1+cpu")
    with pytest.raises(UserError, match=r"found version 0\.20\.1, expected 0\.19\.8.*pip install"):
        import_deepspeed(torch.device("cpu"))


@pytest.mark.slow
def test_bytes_of_a_checkpoint(ranks: RankGroup, tmp_path: Path) -> None:
    """Of a real one, by two ranks under ZeRO 1; headers and names are small."""
    model = ModelConfig(vocabulary=VOCABULARY.size, context=8, width=256, layers=2, heads=2)
    place = changed(tiny.write_data(tmp_path), width=256, sample_tokens=0, **SHORT)
    tiny.train_on(ranks, place)
    size = sum(file.stat().st_size for file in Path(place.output).glob("checkpoints/*/*"))
    assert size == pytest.approx(checkpoint_bytes(model.parameters()), rel=0.02)


def test_a_long_history_gets_sparser(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in every checkpoint. Validations and the newest rows stay."""
    monkeypatch.setattr(metrics, "MOST_ROWS", 10)
    history = metrics.History()
    for step in range(1, 101):
        history.row(step, {"validation_loss" if step % 40 == 0 else "loss": 1.0})
    steps = [row["step"] for row in history.rows]
    assert len(steps) <= 10
    assert {40, 80, 99, 100} <= set(steps)
    assert steps == sorted(steps)
