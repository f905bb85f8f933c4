"""One training carried through other numbers of ranks and other ZeRO stages: the same batches, the same dropout, the same loss."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from gpt1.train.pretrain_config import Place
from tests.gpt1.tiny_pretraining import CONFIG, changed, run, start, write_data, zero

pytestmark = pytest.mark.slow

LONG = dataclasses.replace(
    CONFIG, steps=200, max_lr=1e-3, warmup=0, schedule="constant", log_every=1, validate_every=50, snapshot_every=0, prompts=()
)
LEGS = [(1, 1), (2, 2), (4, 3), (2, 1), (4, 2), (1, 3)]
"""Ranks and ZeRO stage of each leg; every leg but the last ends after 34 updates."""


def traces(place: Place) -> list[dict[str, Any]]:
    """What all ranks computed, in the order of steps and micro-batches."""
    files = (Path(place.output) / "trace").glob("rank-*.jsonl")
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return sorted(rows, key=lambda row: (row["step"], row["index"]))


def curve(place: Place, name: str) -> list[float]:
    rows = (json.loads(line) for line in (Path(place.output) / "metrics.jsonl").read_text().splitlines())
    return [row[name] for row in rows if name in row]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = changed(write_data(tmp_path_factory.mktemp("elastic")), trace=True, checkpoint_every=0)
    run(LONG, place, ranks=2)
    return place


def test_ranks_and_stages_mixed_across_resumes(undisturbed: Place, tmp_path: Path) -> None:
    assert LONG.model.dropout == 0.1
    place = changed(undisturbed, output=str(tmp_path / "moved"), stop_after=34, run="a run")
    for number, (ranks, stage) in enumerate(LEGS):
        leg = changed(place, deepspeed=zero(stage), stop_after=0 if number == len(LEGS) - 1 else 34)
        printed = run(LONG, leg, ranks)
        if number:
            assert "resuming after step" in printed
            in_force = 0 if ranks == 1 else stage  # a rank alone has nothing to share
            assert f"now {{'ranks': {ranks}, 'zero': {in_force}}}" in printed
    ours, theirs = traces(place), traces(undisturbed)
    assert len(theirs) == 200 * 4
    assert ours == theirs, "another batch or other dropout"
    assert len({row["random"] for row in theirs}) == len(theirs)
    difference = max(abs(a - b) for a, b in zip(curve(place, "loss"), curve(undisturbed, "loss"), strict=True))
    held_out = abs(curve(place, "validation_loss")[-1] - curve(undisturbed, "validation_loss")[-1])
    print(f"largest difference of a step's loss {difference:.1e}, of the held-out loss at the end {held_out:.1e}")
    assert curve(undisturbed, "loss")[-1] < 0.9 * curve(undisturbed, "loss")[0]
    assert difference < 1e-4
    assert held_out < 1e-4
    [*_, last] = sorted((Path(place.output) / "checkpoints").iterdir())
    facts = json.loads((last / "record.json").read_text())["facts"]
    assert (facts["ranks"], facts["zero"], facts["run"]) == (1, 0, "a run")


def test_other_settings_are_refused_by_name(undisturbed: Place, tmp_path: Path) -> None:
    earlier = (str(Path(undisturbed.output) / "checkpoints"),)
    other = changed(undisturbed, output=str(tmp_path / "other"), earlier=earlier)
    process = start(dataclasses.replace(LONG, clip=0.5), other, ranks=1)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "made with other clip (see its record.json)" in printed
