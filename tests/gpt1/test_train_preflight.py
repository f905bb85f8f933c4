"""What is looked at before the first step: memory that is free and memory that is needed."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import psutil
import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.train import preflight
from gpt1.train.free_memory import free_memory, of_groups
from tests.gpt1.tiny_pretraining import CONFIG, VOCABULARY, changed, train_here, write_data

# Version 2: the process's group has no limit of its own, the one above has. Version 1: a container.
SECOND = {"job/step/memory.max": "max", "job/step/memory.current": "10", "job/memory.max": "1000"}
SECOND |= {"job/memory.current": "700", "job/memory.stat": "anon 400\ninactive_file 250"}
FIRST = {"memory/memory.limit_in_bytes": "500", "memory/memory.usage_in_bytes": "100"}
FIRST |= {"memory/memory.stat": "total_inactive_file 50"}
GROUPS = [
    ("0::/job/step", SECOND, [1000 - 700 + 250]),
    ("4:memory:/docker/abc\n3:cpuset:/\n0::/", FIRST, [450]), (None, {}, []),
]


@pytest.mark.parametrize(("of_process", "files", "free"), GROUPS)
def test_memory_left_in_a_control_group(
    of_process: str | None, files: dict[str, str], free: list[int], tmp_path: Path
) -> None:
    for name, value in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    if of_process:
        (tmp_path / "of_process").write_text(f"{of_process}\n")
    assert list(of_groups(tmp_path / "of_process", tmp_path / "cgroup")) == free
    assert 0 < (free_memory(torch.device("cpu")) or 0) <= psutil.virtual_memory().total


def test_what_cannot_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "WAIT", 0.0)
    huge = ModelConfig(vocabulary=VOCABULARY.size, context=8, width=16_384, layers=96, heads=64)
    place, config = write_data(tmp_path), dataclasses.replace(CONFIG, model=huge)
    with pytest.raises(UserError, match="does not fit into the memory") as refused:
        train_here(config, place)
    [need] = re.findall(r": a rank needs about ([\d.]+) GB", str(refused.value))
    assert float(need) > 16 * huge.parameters() / 1e9
    option = r"(micro_batch 1|checkpoint_act)[^;]*\(([\d.]+) GB a rank"
    options = re.findall(option, str(refused.value))
    assert {name for name, _ in options} == {"micro_batch 1", "checkpoint_act"}
    sizes = [float(size) for _, size in options]
    assert [*sizes, float(need)] == sorted([*sizes, float(need)])
    least = dataclasses.replace(config, micro_batch=1, loss_chunk=64)
    with pytest.raises(UserError, match="What would help: a smaller model;"):
        train_here(least, changed(place, checkpoint_activations=True))
