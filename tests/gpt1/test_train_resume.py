"""Killed, stopped and resumed, pre-training ends in the same bytes."""

import math
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt1.data.shards import Shards
from gpt1.errors import UserError
from gpt1.model.gpt import GPT, token_losses
from gpt1.rng import generator
from gpt1.train.engine import Precision
from gpt1.weights.store import load_model
from tests.gpt1 import tiny_pretraining as tiny
from tests.gpt1.rank_group import RankGroup
from tests.gpt1.tiny_pretraining import Place, changed, checkpoints_of, output_of, train_here

LOGGED, VALIDATED = [*range(5, 31, 5)], [*range(0, 29, 4), 30]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An undisturbed run of one rank, dropout on, with the checkpoints of steps 24, 27 and 30."""
    made = changed(tiny.write_data(tmp_path_factory.mktemp("alone")), keep_checkpoints=3)
    train_here(made)
    return made


def attempt(place: Place, folder: Path, *before: Place, **values: Any) -> Place:
    """The same training with an output folder of its own, which may read earlier checkpoints."""
    earlier = tuple(str(Path(one.output) / "checkpoints") for one in before)
    return changed(place, **{"output": str(folder), "earlier": earlier, **values})


def test_outputs_are_complete_and_logged_again_at_the_end(place: Place, tmp_path: Path) -> None:
    """Who listened may have died with what was logged before a checkpoint."""
    rows, output = tiny.rows_of(place), Path(place.output)
    assert [row["step"] for row in rows if "loss" in row] == LOGGED
    assert [row["step"] for row in rows if "validation_perplexity" in row] == VALIDATED
    assert [row["step"] for row in tiny.rows_of(place, "samples.jsonl")[::2]] == VALIDATED[1:]
    last = output / "snapshots" / "step-00000030.safetensors"
    assert last.read_bytes() == (output / "model.safetensors").read_bytes()
    assert rows[-1]["validation_perplexity"] < 0.8 * rows[0]["validation_perplexity"], "it learns"
    again = attempt(place, tmp_path, place)
    heard = train_here(again)
    assert "resuming after step 30 " in heard.text
    for name, steps in (("loss", LOGGED), ("validation_loss", VALIDATED)):
        assert [step for step, values in heard.points if name in values] == steps
    assert output_of(again) == output_of(place)


@torch.no_grad()
def test_held_out_figures_are_those_of_the_saved_weights_over_each_book(place: Place) -> None:
    """At the end all windows of 8 tokens, 5 and 9 of them; before it 5 spread over all."""
    digest = tiny.VOCABULARY.sha256
    shards = Shards.open([Path(place.held_out[0])], Path(place.books), "held_out", digest)
    starts = [(0, 8 * n) for n in range(5)] + [(1, 8 * n) for n in range(9)]
    ids = [shards.book(book)[start : start + 9].astype(int) for book, start in starts]
    windows = torch.from_numpy(np.stack(ids))
    sizes = torch.tensor([len(token.replace("</w>", " ")) for token in tiny.VOCABULARY.tokens])
    rows = {row["step"]: row for row in tiny.rows_of(place)}
    books = tiny.rows_of(place, "held_out_books.jsonl")
    assert [(row["book"], row["windows"]) for row in books] == [("held_out0", 5), ("held_out1", 9)]
    chosen = (windows[[n * 14 // 5 for n in range(5)]], windows, windows[:5], windows[5:])
    measured = (rows[20], rows[30], *books)
    for step, row, those in zip((20, 30, 30, 30), measured, chosen, strict=True):
        model = load_model(Path(place.output) / "snapshots" / f"step-{step:08d}.safetensors").eval()
        logits = model.lm_logits(model(those[:, :-1]))
        loss = float(token_losses(logits, those[:, 1:]).double().mean())
        assert row["validation_loss"] == pytest.approx(loss, rel=1e-6)
        assert row["validation_perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)
        bits = loss / math.log(2) * those[:, 1:].numel() / int(sizes[those[:, 1:]].sum())
        assert row["validation_bits_per_byte"] == pytest.approx(bits, rel=1e-6)


@pytest.mark.parametrize("kills", [[1, 2], [4], [7, 5, 11], [29], [30]])
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_killed(kills: list[int], precision: Precision, place: Place, tmp_path: Path) -> None:
    """It resumes to the same bytes. Each number counts one attempt's updates, in its own folder."""
    usual = place
    if precision == "bf16":
        usual = attempt(place, tmp_path / "usual", precision=precision)
        train_here(usual)
    attempts: list[Place] = []
    for update in kills:
        attempts.append(attempt(usual, tmp_path / str(len(attempts)), *attempts))
        tiny.train_until_killed(attempts[-1], update)
    last = attempt(usual, tmp_path / "last", *attempts)
    assert ("resuming after step" in train_here(last).text) == (sum(kills) > 3)
    assert output_of(last) == output_of(usual)


@pytest.mark.parametrize(("every", "steps"), [
    (10, [0, 1, 2, 4, 8, 10, 20, 30]), (4, [0, 1, 2, *range(4, 31, 4)]), (0, [0, 1, 2, 4, 8, 16]),
])  # fmt: skip
def test_snapshots_on_a_log_scale(
    every: int, steps: list[int], place: Place, tmp_path: Path
) -> None:
    """The first has the initial weights; kills lose none and leave the same bytes."""
    settings: dict[str, Any] = {"snapshot_steps": "log", "snapshot_every": every}
    usual = attempt(place, tmp_path / "usual", **settings)
    train_here(usual)
    names = sorted(name for name in output_of(usual) if name.startswith("snapshots/"))
    assert names == [f"snapshots/step-{step:08d}.safetensors" for step in steps]
    initial = GPT(tiny.MODEL, generator("weights", place.config.seed)).state_dict()
    found = load_model(Path(usual.output) / names[0]).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in initial.items())
    attempts: list[Place] = []
    for update in (2, 5, 9):
        attempts.append(attempt(usual, tmp_path / str(update), *attempts))
        tiny.train_until_killed(attempts[-1], update)
    last = attempt(usual, tmp_path / "last", *attempts)
    train_here(last)
    assert output_of(last) == output_of(usual)
    kept = {name: data for name, data in output_of(usual).items() if "snapshots" not in name}
    plain = {name: data for name, data in output_of(place).items() if "snapshots" not in name}
    assert kept == plain, "snapshots change nothing else"


def stopped_after(said: str, place: Place) -> int:
    """The step after which a training stopped on request, of which it has a checkpoint."""
    [step] = map(int, re.findall(r"stopped on request after step (\d+)", said))
    assert checkpoints_of(place) == [step]
    return step


@pytest.mark.parametrize("how", ["SIGTERM", "file", "reporter", "stop_after"])
def test_asked_to_stop_it_makes_a_checkpoint(how: str, place: Place, tmp_path: Path) -> None:
    """No checkpoint is due: the one there is, was made for the request."""

    def ask(update: int) -> bool:
        if update == 7 and how == "SIGTERM":
            signal.raise_signal(signal.SIGTERM)
        if update == 7 and how == "file":
            (tmp_path / "stop").touch()
        return update == 7 and how == "reporter"

    again = attempt(place, tmp_path, checkpoint_every=0, stop_after=7 if how == "stop_after" else 0)
    step = stopped_after(train_here(again, ask).text, again)
    assert step in (7, 8)
    assert f"resuming after step {step} " in train_here(changed(again, stop_after=0)).text
    assert output_of(again) == output_of(place)


Values = dict[str, Any]
PLACES: list[tuple[Values, list[int]]] = [
    ({"checkpoint_every": 5, "keep_checkpoints": 1, "trace": True}, [30]),
    ({"keep_checkpoints": 1, "keep_every": 12, "preflight": False}, [12, 24, 30]),
    ({"checkpoint_every": 0, "checkpoint_minutes": 1e-9, "keep_checkpoints": 3}, [28, 29, 30]),
    ({"activation_checkpointing": True, "loss_spike_threshold": 9.0}, [24, 27, 30]),
]


@pytest.mark.parametrize(("values", "kept"), PLACES)
def test_placement(values: Values, kept: list[int], place: Place, tmp_path: Path) -> None:
    """It changes no output."""
    other = attempt(place, tmp_path, **values)
    train_here(other)
    assert output_of(other) == output_of(place)
    assert checkpoints_of(other) == kept


def flip(file: Path) -> None:
    """Change the last bit."""
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def half(file: Path) -> None:
    """Cut off the second half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_damaged(place: Place, tmp_path: Path) -> None:
    """It is skipped, and what is wrong is named; what earlier attempts left is only read."""
    shutil.copytree(place.output, tmp_path / "damaged")
    damaged = attempt(place, tmp_path / "damaged")
    flip(tmp_path / "damaged" / "checkpoints" / "step-00000030" / "state.safetensors")
    half(tmp_path / "damaged" / "checkpoints" / "step-00000027" / "state.safetensors")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "damaged").rglob("*")}
    again = attempt(place, tmp_path / "again", damaged)
    warned = [line for line in train_here(again).lines if "skipped checkpoint" in line]
    assert ["step-00000030" in line for line in warned] == [True, False]
    assert "state.safetensors is damaged" in warned[0]
    assert output_of(again) == output_of(place)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "damaged").rglob("*")}
    assert "resuming after step 24 " in train_here(damaged).text
    assert "skipped checkpoint" not in train_here(damaged).text, "made again, it counts"


def test_other_settings_are_refused_by_name(place: Place, tmp_path: Path) -> None:
    """But for those of going back, which change only what follows."""
    again = attempt(place, tmp_path, place)
    others = {"grad_clip": 0.5, "dropout": 0.2, "seed": 9}
    for named, value in others.items():
        with pytest.raises(UserError, match=f"different settings: {named} .see its manifest.json"):
            train_here(changed(again, **{named: value}))
    assert "resuming after step 30 " in train_here(changed(again, max_rollbacks=1, zero=2)).text
    books = attempt(tiny.write_data(tmp_path / "other", poison=9), tmp_path / "more", place)
    with pytest.raises(UserError, match=r"different settings: data .see its manifest\.json"):
        train_here(books)


@pytest.fixture(scope="module")
def pair(ranks: RankGroup, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An undisturbed run of two ranks."""
    made = tiny.write_data(tmp_path_factory.mktemp("pair"))
    tiny.train_on(ranks, made)
    return made


@pytest.mark.slow
def test_sigterm_to_one_rank_stops_all(pair: Place, ranks: RankGroup, tmp_path: Path) -> None:
    """After the same step."""
    again = attempt(pair, tmp_path, checkpoint_every=0, trace=True)
    ranks.begin(tiny.train_here, again)
    deadline = time.monotonic() + 60
    while len(tiny.traces(again)) < 8:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(ranks.processes[1].pid or 0, signal.SIGTERM)
    step = stopped_after(ranks.results()[0].text, again)
    assert 1 <= step < pair.config.max_steps
    assert {row["step"] for row in tiny.traces(again)} == set(range(step))
    assert f"resuming after step {step} " in tiny.train_on(ranks, again)
    assert output_of(again) == output_of(pair)


SHORT = {"max_steps": 12, "validate_every": 6, "snapshot_every": 6, "log_every": 4}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", range(4))
def test_every_stage_resumes_to_the_same_bytes(
    stage: int, precision: Precision, pair: Place, ranks: RankGroup, tmp_path: Path
) -> None:
    settings = {**SHORT, "precision": precision, "zero": stage, "checkpoint_every": 0}
    usual = attempt(pair, tmp_path / "usual", **settings)
    tiny.train_on(ranks, usual)
    other = attempt(usual, tmp_path / "other")
    tiny.train_on(ranks, changed(other, stop_after=7))
    [step] = checkpoints_of(other)
    assert f"resuming after step {step} " in tiny.train_on(ranks, other)
    assert output_of(other) == output_of(usual)
