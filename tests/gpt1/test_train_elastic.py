"""One training on changing ranks and ZeRO stages: the same batches, dropout and loss."""

from pathlib import Path

import pytest

from tests.gpt1 import tiny_pretraining as tiny
from tests.gpt1.rank_group import RankGroup
from tests.gpt1.tiny_pretraining import changed, curve, traces

LONG = {
    "max_steps": 60, "lr": 2e-3, "warmup_steps": 0, "schedule": "constant", "log_every": 1,
    "validate_every": 30, "snapshot_every": 0, "sample_tokens": 0,
}  # fmt: skip
FEW = [(1, 1), (2, 2), (2, 3), (2, 1), (0, 2), (1, 3)]
MANY = [(1, 1), (2, 2), (4, 3), (2, 1), (4, 2), (1, 3)]
"""Ranks and ZeRO stage of each leg; 0: one rank, with DeepSpeed all the same."""


@pytest.mark.slow
@pytest.mark.parametrize("legs", [FEW, pytest.param(MANY, marks=pytest.mark.chaos)])
def test_ranks_mixed(legs: list[tuple[int, int]], ranks: RankGroup, tmp_path: Path) -> None:
    undisturbed = changed(tiny.write_data(tmp_path), trace=True, checkpoint_every=0, **LONG)
    tiny.train_on(ranks, undisturbed)
    place = changed(undisturbed, output=str(tmp_path / "moved"))
    for number, (world, stage) in enumerate(legs):
        leg = changed(place, zero=stage, stop_after=10 * (number < len(legs) - 1))
        if world == 1:
            said = tiny.train_here(leg).text
        elif world == 2:
            said = tiny.train_on(ranks, leg)
        else:
            group = RankGroup(world or 1)
            said = tiny.train_on(group, changed(leg, zero_on_one_rank=True))
            group.kill()
        if number:
            assert "resuming after step" in said
            in_force = 0 if world == 1 else stage  # a rank alone has nothing to share
            assert f"now {{'ranks': {world or 1}, 'zero': {in_force}}}" in said
    theirs = traces(undisturbed)
    assert traces(place) == theirs, "another batch or other dropout"
    assert len({row["random"] for row in theirs}) == len(theirs) == 60 * 4
    for name in ("loss", "validation_loss"):
        usual = curve(undisturbed, name)
        assert curve(place, name) == pytest.approx(usual, rel=0, abs=1e-4)
        assert usual[-1] < 0.9 * usual[0]
