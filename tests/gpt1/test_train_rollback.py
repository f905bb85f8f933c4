"""A book of noise makes the loss jump: training names it, or goes back and leaves it out."""

import hashlib
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt1.data.sequences import batch_of, step_of
from gpt1.errors import UserError
from gpt1.train import pretrain
from gpt1.train.trainer import open_data
from tests.gpt1 import tiny_pretraining as tiny
from tests.gpt1.rank_group import RankGroup
from tests.gpt1.tiny_pretraining import POISON, Heard, Place, changed, curve, output_of, train_here

SPIKE = 0.4
"""Nats. The noise raises a batch's loss by 0.7 to 1.0, the other batches differ by 0.1."""
GOES_BACK = {
    "batch_size": 4, "max_steps": 40, "lr": 4e-2, "snapshot_every": 20, "max_rollbacks": 9,
    "loss_spike_threshold": SPIKE, "trace": True,
}  # fmt: skip
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run of one rank that went back, undisturbed, with a checkpoint every three updates."""
    made = changed(tiny.write_data(tmp_path_factory.mktemp("poisoned"), poison=9), **GOES_BACK)
    train_here(made)
    return made


def events(place: Place) -> list[dict[str, Any]]:
    return tiny.rows_of(place, "skipped.jsonl")


def skipped(place: Place) -> list[int]:
    return sorted(batch for event in events(place) for batch in event["batches"])


def test_without_roll_back_it_stops_and_names_the_books(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    file = tmp_path / "run.json"
    tiny.write_json(file, changed(place, output=str(tmp_path), max_rollbacks=0))
    monkeypatch.setattr(sys, "argv", ["pretrain", "--config", str(file)])
    assert pretrain.main() == 2
    said, step = capsys.readouterr().err, events(place)[0]["step"]
    assert all(text in said for text in (f"at step {step} of 40", repr(POISON)))


def test_going_back_leaves_out_the_noise_and_says_so(place: Place) -> None:
    found = events(place)
    assert 2 <= len(found) <= 4
    assert all(POISON in one["books"] and one["loss"] > one["before"] + SPIKE for one in found)
    rows = tiny.rows_of(place)
    assert rows[-1]["skipped_batches"] == len(set(skipped(place))) == 2 * len(found)
    assert [row["step"] for row in rows if "loss" in row] == list(range(5, 41, 5)), "each row once"
    losses = curve(place, "loss")
    assert all(later < before + SPIKE for before, later in itertools.pairwise(losses))


def test_the_other_batches_keep_their_order(place: Place, tmp_path: Path) -> None:
    """Compared with a training too slow to diverge, which leaves out nothing."""
    left_out = skipped(place)
    slow = {"max_steps": 40 + len(left_out), "lr": 1e-9, "max_rollbacks": 0}
    plain = changed(place, output=str(tmp_path), **slow)
    train_here(plain)
    kept = [row["batch"] for row in tiny.traces(plain) if row["step"] not in left_out]
    # in the order of time: a step that was made again comes again, and the last one counts
    rows = tiny.rows_of(place, "trace/rank-00000.jsonl")
    last = {(row["step"], row["index"]): row["batch"] for row in rows}
    assert [last[step, index] for step in range(40) for index in range(2)] == kept


def test_the_reads_of_all_books_are_the_batches_of_the_run(place: Place) -> None:
    """With the steps that each has in the end: what was rolled back has none."""
    config, data = place.config, open_data(place.config, place)
    batches = batch_of(config.max_steps - 1, skipped(place)) + 1
    spans = [(book, 0, size) for book, size in enumerate(data.train.shards.lengths)]
    rows: dict[tuple[int | None, int], Any] = {}
    for (book, _, _), reads in zip(
        spans, data.train.reads(spans, batches * config.batch_size), strict=True
    ):
        for sample, start, end in reads:
            batch, row = divmod(sample, config.batch_size)
            ids = data.train.shards.book(book)[start:end].astype(np.int64)
            rows[step_of(batch, skipped(place)), row] = ids
    logged = tiny.rows_of(place, "trace/rank-00000.jsonl")
    last = {(row["step"], row["index"]): row["batch"] for row in logged}
    assert len(last) * config.micro_batch_size == sum(step is not None for step, _ in rows)
    for (step, index), found in last.items():
        size = config.micro_batch_size
        batch = b"".join(rows[step, index * size + row].tobytes() for row in range(size))
        assert hashlib.sha256(batch).hexdigest()[:16] == found


@pytest.mark.parametrize("every", [7, 0])
def test_any_checkpoint_does_to_go_back_to(every: int, place: Place, tmp_path: Path) -> None:
    """Every seven updates, or none at all: then it begins again."""
    other = changed(place, output=str(tmp_path), checkpoint_every=every)
    begins = "rolling back to the start" in train_here(other).text
    assert begins == (every == 0)
    assert output_of(other) == output_of(place)


@pytest.mark.parametrize("later", [1, 9])
def test_killed_after_going_back_it_resumes_to_the_same_bytes(
    later: int, place: Place, tmp_path: Path
) -> None:
    """Before the next checkpoint, which records what was left out, and after it."""
    again = changed(place, output=str(tmp_path))
    tiny.train_until_killed(again, events(place)[0]["step"] + later)
    assert "resuming after step" in train_here(again).text
    assert output_of(again) == output_of(place)


def test_after_going_back_the_new_checkpoints_are_kept(place: Place, tmp_path: Path) -> None:
    """All that was kept is too late to go back to: it begins again, stops, and resumes there."""
    again = changed(place, output=str(tmp_path), checkpoint_every=1, skip_batches=4)
    said = train_here(changed(again, stop_after=events(place)[0]["step"] + 6)).text
    assert "rolling back to the start" in said
    before, step = tiny.checkpoints_of(again)
    assert 1 < step == before + 1 < 10
    assert f"resuming after step {step} " in train_here(again).text


@pytest.mark.parametrize("back", [2, 0])
def test_a_rate_that_spoils_all_stops_at_last(back: int, place: Place, tmp_path: Path) -> None:
    message = "already rolled back 2 times" if back else "the loss is nan"
    values = {"lr": 1e38, "max_rollbacks": back, "loss_spike_threshold": 0.0}
    spoilt, heard = changed(place, output=str(tmp_path), **values), Heard()
    with pytest.raises(UserError, match=message):
        pretrain.pretrain(spoilt.config, spoilt, heard)
    assert heard.text.count("the loss at step") == back
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "every"), [(1, 7), (3, 0)])
def test_two_ranks_leave_out_the_same_batches(
    stage: int, every: int, place: Place, ranks: RankGroup, tmp_path: Path
) -> None:
    both = changed(place, output=str(tmp_path / "both"), zero=stage)
    other = changed(both, output=str(tmp_path / "other"), checkpoint_every=every)
    for one in (both, other):
        tiny.train_on(ranks, one)
        found, expected = events(one), events(place)
        for event in (*found, *expected):
            event["loss"] = event["before"] = 0
        assert found == expected
    assert output_of(both) == output_of(other)
    assert {str(row) for row in tiny.traces(both)} == {str(row) for row in tiny.traces(place)}
    assert curve(both, "loss") == pytest.approx(curve(place, "loss"), rel=0, abs=1e-4)
