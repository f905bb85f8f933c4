"""What is looked at before the first step: memory and the ranks' exchange."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import psutil
import pytest
import torch

from gpt1.model.config import ModelConfig
from gpt1.train.free_memory import free_memory, of_groups
from gpt1.train.preflight import MARGIN, Need, bandwidth, checkpoint_copies, copies_here, expected, options, tightest, told
from gpt1.train.pretrain_config import Place, PretrainConfig
from gpt1.train.ranks import Ranks
from tests.gpt1.tiny_pretraining import CONFIG, VOCABULARY, changed, run, start, write_data

PAPER = PretrainConfig(ModelConfig(), steps=1)
NOWHERE = Place((), (), "", "", "")
ALONE, FOUR = (Ranks(0, world, torch.device("cpu")) for world in (1, 4))


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_a_group_s_limit_counts_less_what_is_used_but_for_cached_files(tmp_path: Path) -> None:
    """Version 2: the process's group has no limit of its own, the one above has."""
    groups = tmp_path / "cgroup"
    write(groups / "job" / "step", memory__max="max", memory__current=10)
    write(groups / "job", memory__max=1000, memory__current=700, memory__stat="anon 400\ninactive_file 250")
    write(tmp_path, cgroup_of_process="0::/job/step")
    assert list(of_groups(tmp_path / "cgroup_of_process", groups)) == [1000 - 700 + 250]


def test_version_1_and_a_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    groups = tmp_path / "cgroup"
    write(groups / "memory", memory__limit_in_bytes=500, memory__usage_in_bytes=100, memory__stat="total_inactive_file 50")
    write(tmp_path, cgroup_of_process="4:memory:/docker/abc\n3:cpuset:/\n0::/")
    assert list(of_groups(tmp_path / "cgroup_of_process", groups)) == [450]
    assert list(of_groups(tmp_path / "no such file", groups)) == []


def test_this_host_has_some_memory_left() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is not None
    assert 0 < free <= psutil.virtual_memory().total


def test_it_is_hopeless_only_where_the_margin_does_not_fit() -> None:
    need = Need(each=1000, ranks=2, once=400, free=round(2400 * MARGIN))
    assert not need.hopeless
    assert dataclasses.replace(need, free=need.free - 1).hopeless
    assert told(Need(10**9, 2, 10**9, 2 * 10**9)) == (
        "a rank needs about 1.00 GB and 1.00 GB while a checkpoint is written; 3.00 GB for the 2 ranks of a host; 2.00 GB are free"
    )


def test_options_are_those_that_help_the_most_helpful_first() -> None:
    told = options(PAPER, NOWHERE, FOUR, zero=1)
    assert [one.split(" (")[0] for one in told] == [
        "micro_batch 1 instead of 8", "checkpoint_activations", "loss_chunk 512", "zero 3 instead of 1",
    ]  # fmt: skip
    sizes = [float(found[1]) for one in told if (found := re.search(r"\(([\d.]+) GB a rank\)", one))]
    assert len(sizes) == 4
    assert sizes == sorted(sizes)
    assert sizes[-1] < expected(PAPER, NOWHERE, FOUR, zero=1).total / 1e9
    spare = dataclasses.replace(PAPER, micro_batch=1, loss_chunk=64)
    assert options(spare, changed(NOWHERE, checkpoint_activations=True), ALONE, zero=0) == ["a smaller model"]


def test_copies_and_bandwidth() -> None:
    assert checkpoint_copies(PAPER.model) == 24 * PAPER.model.parameters() == 2 * checkpoint_copies(PAPER.model, portable_only=True)
    assert bandwidth(0.01, world=2) == pytest.approx((16 << 20) / 0.01 / 1e9)
    assert bandwidth(0.01, world=4) == pytest.approx(1.5 * bandwidth(0.01, world=2))


@pytest.mark.parametrize("launcher", ["GROUP_RANK", "NODE_RANK"])  # of torchrun, of Ray Train
def test_only_the_host_of_rank_0_is_charged_with_the_whole_copies(monkeypatch: pytest.MonkeyPatch, launcher: str) -> None:
    """The paper's model in fp32, a rank on each of two hosts, one of which has 4 GB left."""
    for name in ("GROUP_RANK", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    copies, portable = [], []
    for host in (0, 1):
        monkeypatch.setenv(launcher, str(host))
        copies.append(copies_here(PAPER.model, world=2, beside=1))
        portable.append(copies_here(PAPER.model, world=2, beside=1, portable_only=True))
    assert copies == [checkpoint_copies(PAPER.model), 6 * PAPER.model.parameters()]
    assert portable == [checkpoint_copies(PAPER.model, portable_only=True), 0]
    each, tight, roomy = 2_710_000_000, 4_000_000_000, 64_000_000_000
    assert not tightest(each, [(roomy, 1, copies[0]), (tight, 1, copies[1])]).hopeless
    assert tightest(each, [(tight, 1, copies[0]), (roomy, 1, copies[1])]) == Need(each, 1, copies[0], tight)
    assert Need(each, 1, copies[0], tight).hopeless


@pytest.mark.slow
def test_two_ranks_say_what_they_found(tmp_path: Path) -> None:
    place = write_data(tmp_path)
    once = dataclasses.replace(CONFIG, steps=3)
    printed = run(once, place, ranks=2)
    pattern = r"check before training: a rank needs about [\d.]+ MB .* for the 2 ranks of a host; [\d.]+ GB are free; .* GB/s"
    assert len(re.findall(pattern, printed)) == 1, printed
    assert "check before" not in run(once, changed(place, output=str(tmp_path / "other"), preflight=False), ranks=2)


@pytest.mark.slow
def test_a_model_that_cannot_fit_is_refused_before_it_is_made(tmp_path: Path) -> None:
    huge = ModelConfig(vocabulary=VOCABULARY.size, context=8, width=16_384, layers=96, heads=64)
    process = start(dataclasses.replace(CONFIG, model=huge), write_data(tmp_path), ranks=1)
    printed, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    said = re.findall(r"error: pretrain: the training does not fit into the memory: a rank needs about ([\d,.]+) GB", printed)
    assert len(said) == 1, printed
    assert float(said[0]) > 16 * huge.parameters() / 1e9
    assert "micro_batch 1 instead of 2" in printed
