"""A book of noise among the others makes the loss jump: training stops and names it, or goes back and leaves its batches out."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpt1.model.config import ModelConfig
from gpt1.train.divergence import Diverged
from gpt1.train.pretrain_config import Place, PretrainConfig
from gpt1.train.rollback import batch_of, going_back, same_batches, skipped_in
from tests.gpt1.test_train_elastic import curve, traces
from tests.gpt1.tiny_pretraining import CONFIG, POISON, changed, contents, run, start, write_data, zero

SPIKE = 0.4
"""Nats. The noise raises a batch's loss by 0.7 to 1.0 once the walk is learned, the other batches differ by 0.1."""
STOPS = dataclasses.replace(CONFIG, batch=4, steps=40, max_lr=4e-2, snapshot_every=20)
GOES_BACK = dataclasses.replace(STOPS, rollbacks=9, rollback_spike=SPIKE)


def test_the_batches_of_steps_are_those_that_are_not_left_out() -> None:
    kept = [batch for batch in range(20) if batch not in (3, 4, 9)]
    assert [batch_of(step, [3, 4, 9]) for step in range(17)] == kept
    for steps in range(15):
        assert same_batches(steps, [3, 4], [3, 4, 9]) == (kept[:steps] == [n for n in range(20) if n not in (3, 4)][:steps])


def event(step: int, loss: float, events: list[dict[str, Any]], before: float = 2.0, **changes: Any) -> dict[str, Any]:
    config = dataclasses.replace(PretrainConfig(ModelConfig(), steps=100), **{"rollbacks": 2, "rollback_spike": 1.0, **changes})
    return going_back(Diverged("it diverged", step, loss, before), events, config, lambda step: [f"book {step % 2}", "both"])


def test_the_last_batches_up_to_the_diverged_one_are_left_out() -> None:
    first = event(10, math.nan, [])
    assert first == {"step": 10, "loss": None, "before": 2.0, "first": 8, "batches": [8, 9], "books": ["book 0", "both", "book 1"]}
    second = event(9, 3.5, [first], rollback_batches=3)
    assert (second["first"], second["batches"]) == (6, [6, 7, 10]), "step 9 has batch 10 by now"
    assert skipped_in([first, second]) == [6, 7, 8, 9, 10]
    assert event(1, math.inf, [])["batches"] == [0]


def test_it_goes_back_only_for_what_the_settings_say_and_so_often() -> None:
    for loss, changes in ((2.9, {}), (9.0, {"rollback_spike": 0.0}), (math.nan, {"rollbacks": 0})):
        with pytest.raises(Diverged, match=r"^it diverged$"):
            event(10, loss, [], **changes)
    with pytest.raises(Diverged, match=r"went back 2 times \(at step 10, at step 20\), which is all that rollbacks allows"):
        event(30, math.nan, [event(10, math.nan, []), event(20, math.nan, [])])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run on two ranks that went back, undisturbed, with a checkpoint every three updates."""
    made = changed(write_data(tmp_path_factory.mktemp("poisoned"), poison=9), trace=True)
    run(GOES_BACK, made, ranks=2)
    return made


def events(place: Place) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(place.output) / "skipped.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_without_roll_back_it_stops_and_names_the_books(place: Place, tmp_path: Path) -> None:
    process = start(STOPS, changed(place, output=str(tmp_path), spike=SPIKE), ranks=1)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"at step {events(place)[0]['step']} of 40" in printed
    assert POISON in printed


@pytest.mark.slow
def test_going_back_leaves_out_the_noise_and_says_so(place: Place) -> None:
    found = events(place)
    assert 2 <= len(found) <= 4
    assert all(POISON in one["books"] and one["loss"] > one["before"] + SPIKE for one in found)
    assert len(set(skipped_in(found))) == 2 * len(found)
    rows = [json.loads(line) for line in (Path(place.output) / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["skipped_batches"] == 2 * len(found)
    assert "skipped_batches" not in rows[0]
    assert [row["step"] for row in rows if "loss" in row] == list(range(5, 41, 5)), "each row once"
    losses = curve(place, "loss")
    assert all(later < before + SPIKE for before, later in itertools.pairwise(losses))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "every"), [(1, 7), (1, 0), (3, 0)])
def test_it_does_not_matter_which_checkpoint_there_was_to_go_back_to(stage: int, every: int, place: Place, tmp_path: Path) -> None:
    """Every seven updates, or none at all: then it begins anew."""
    usual = place
    if stage != 1:
        usual = changed(place, output=str(tmp_path / "usual"), deepspeed=zero(stage))
        run(GOES_BACK, usual, ranks=2)
    other = changed(usual, output=str(tmp_path / "other"), checkpoint_every=every)
    printed = run(GOES_BACK, other, ranks=2)
    assert ("going back to the beginning" in printed) == (every == 0)
    assert contents(Path(other.output)) == contents(Path(usual.output))
    assert events(other) == events(usual)


@pytest.mark.slow
def test_killed_after_going_back_it_resumes_to_the_same_bytes(place: Place, tmp_path: Path) -> None:
    again = changed(place, output=str(tmp_path))
    process = start(GOES_BACK, again, ranks=2)
    assert process.stdout is not None
    for line in process.stdout:
        if "going back to step" in line:
            break
    everyone = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for victim in everyone:
        victim.kill()
    psutil.wait_procs(everyone, timeout=30)
    printed = run(GOES_BACK, again, ranks=2)
    assert "resuming after step" in printed
    assert contents(tmp_path) == contents(Path(place.output))
    assert events(again) == events(place)


@pytest.mark.slow
def test_after_going_back_the_new_checkpoints_are_kept(place: Place, tmp_path: Path) -> None:
    """All that was kept lies too late to go back to: training begins anew, is stopped, and goes on from where it was stopped."""
    again = changed(place, output=str(tmp_path), checkpoint_every=1)
    config = dataclasses.replace(GOES_BACK, rollback_batches=4)
    printed = run(config, changed(again, stop_after=events(place)[0]["step"] + 6), ranks=2)
    assert "going back to the beginning" in printed
    stopped = re.search(r"stopped on request after step (\d+)", printed)
    assert stopped, printed
    step = int(stopped[1])
    assert 1 < step < 10
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {f"step-{n:08d}" for n in (step - 1, step)}
    assert f"resuming after step {step}" in run(config, again, ranks=2)


@pytest.mark.slow
def test_on_one_rank_it_leaves_out_the_same_batches(place: Place, tmp_path: Path) -> None:
    alone = changed(place, output=str(tmp_path))
    run(GOES_BACK, alone, ranks=1)
    ours, theirs = ([{**one, "loss": 0, "before": 0} for one in events(made)] for made in (alone, place))
    assert ours == theirs
    assert {str(row) for row in traces(alone)} == {str(row) for row in traces(place)}, "another batch or other dropout"
    assert max(abs(a - b) for a, b in zip(curve(alone, "loss"), curve(place, "loss"), strict=True)) < 1e-4


@pytest.mark.slow
def test_a_rate_that_spoils_every_weight_is_not_helped_and_stops_in_the_end(place: Place, tmp_path: Path) -> None:
    absurd = dataclasses.replace(GOES_BACK, max_lr=1e38, rollbacks=2, rollback_spike=0.0)
    process = start(absurd, changed(place, output=str(tmp_path)), ranks=1)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert printed.count("the loss at step") == 2
    assert "Training went back 2 times" in printed
    assert not (tmp_path / "model.safetensors").exists()
