"""Pre-training killed and resumed: real ranks, real DeepSpeed, real checkpoints."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gpt1.train.pretrain_config import Place, to_json
from tests.conftest import ROOT
from tests.gpt1.tiny_pretraining import CONFIG, changed, contents, run, start, write_data, zero

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An undisturbed run on two ranks, dropout on."""
    made = write_data(tmp_path_factory.mktemp("pretraining"))
    run(CONFIG, made, ranks=2)
    return made


def kill_after_next_checkpoint(place: Place) -> None:
    """Start two ranks and kill launcher and ranks, -9, as soon as they have made another checkpoint."""
    checkpoints = Path(place.output) / "checkpoints"
    before = set(checkpoints.glob("step-*"))
    process = start(CONFIG, place, ranks=2)
    deadline = time.monotonic() + 120
    while set(checkpoints.glob("step-*")) <= before:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    everyone = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for victim in everyone:
        victim.send_signal(signal.SIGKILL)
    psutil.wait_procs(everyone, timeout=30)
    process.communicate()


LOUD = """
import sys
from pathlib import Path
from gpt1.train.pretrain import pretrain
from gpt1.train.pretrain_config import from_json
from gpt1.train.reporter import PrintReporter

class Loud(PrintReporter):
    def log(self, step, values):
        print("point", step, *sorted(values))

pretrain(*from_json(Path(sys.argv[1])), Loud())
"""


def test_what_was_logged_before_a_checkpoint_is_logged_again(place: Place, tmp_path: Path) -> None:
    """Who listened may have died with it. Here the checkpoint is the last, so that nothing else is logged."""
    file = tmp_path / "run.json"
    earlier = (str(Path(place.output) / "checkpoints"),)
    file.write_text(to_json(CONFIG, changed(place, output=str(tmp_path / "output"), earlier=earlier)))
    (tmp_path / "output").mkdir()
    said = subprocess.run([sys.executable, "-c", LOUD, file], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr
    points = [line.split() for line in said.stdout.splitlines() if line.startswith("point")]
    assert [int(point[1]) for point in points if "loss" in point] == [5, 10, 15, 20, 25, 30]
    assert [int(point[1]) for point in points if "validation_loss" in point] == [4, 8, 12, 16, 20, 24, 28, 30]


def test_outputs_are_whole(place: Place) -> None:
    output = Path(place.output)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [5, 10, 15, 20, 25, 30]
    assert [row["step"] for row in rows if "validation_perplexity" in row] == [4, 8, 12, 16, 20, 24, 28, 30]
    samples = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples[::2]] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert sorted(path.name for path in (output / "snapshots").iterdir()) == [f"step-{n:08d}.safetensors" for n in (10, 20, 30)]
    assert (output / "snapshots" / "step-00000030.safetensors").read_bytes() == (output / "model.safetensors").read_bytes()
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["step-00000027", "step-00000030"]
    [book] = [json.loads(line) for line in (output / "held_out_books.jsonl").read_text().splitlines()]
    assert (book["book"], book["windows"]) == ("held_out0", 9)
    assert book["validation_loss"] == pytest.approx(rows[-1]["validation_loss"])
    assert rows[-1]["validation_perplexity"] < 0.8 * rows[0]["validation_perplexity"], "it learns"


def test_killed_twice_and_resumed_in_the_same_folder_gives_the_same_bytes(place: Place, tmp_path: Path) -> None:
    again = changed(place, output=str(tmp_path / "again"))
    kill_after_next_checkpoint(again)
    kill_after_next_checkpoint(again)
    printed = run(CONFIG, again, ranks=2)
    found = re.search(r"resuming after step (\d+) ", printed)
    assert found, printed
    assert int(found[1]) < CONFIG.steps
    assert contents(Path(again.output)) == contents(Path(place.output))


def test_killed_after_the_last_checkpoint_it_only_writes_its_outputs(place: Place, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(Path(place.output) / "checkpoints", again / "checkpoints")
    shutil.copytree(Path(place.output) / "snapshots", again / "snapshots")
    assert "resuming after step 30" in run(CONFIG, changed(place, output=str(again)), ranks=2)
    assert contents(again) == contents(Path(place.output))


def test_a_new_attempt_goes_on_from_the_newest_whole_checkpoint_of_earlier_ones(place: Place, tmp_path: Path) -> None:
    """The newest is damaged (one byte), the next truncated; the one before is used, in an attempt with a folder of its own."""
    kept = changed(place, output=str(tmp_path / "kept"), keep_checkpoints=3)
    run(CONFIG, kept, ranks=2)
    checkpoints = Path(kept.output) / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == [f"step-{n:08d}" for n in (24, 27, 30)]
    flip(next(checkpoints.glob("step-00000030/**/*model_states.pt")))
    truncate(next(checkpoints.glob("step-00000027/**/*model_states.pt")))
    second = changed(place, output=str(tmp_path / "second"), earlier=(str(checkpoints),))
    printed = run(CONFIG, second, ranks=2)
    assert "step-00000030 is passed over" in printed
    assert "step-00000027 is passed over" in printed
    assert "resuming after step 24" in printed
    assert contents(Path(second.output)) == contents(Path(place.output))


def test_placement_changes_no_output(place: Place, tmp_path: Path) -> None:
    other = changed(place, output=str(tmp_path / "other"), checkpoint_every=5, keep_checkpoints=1)
    run(CONFIG, other, ranks=2)
    assert contents(Path(other.output)) == contents(Path(place.output))


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_every_zero_stage_resumes_bit_for_bit(stage: int, place: Place, tmp_path: Path) -> None:
    whole = changed(place, output=str(tmp_path / "whole"), deepspeed=zero(stage), keep_checkpoints=3)
    run(CONFIG, whole, ranks=2)
    for step in (27, 30):
        shutil.rmtree(Path(whole.output) / "checkpoints" / f"step-{step:08d}")
    earlier = (str(Path(whole.output) / "checkpoints"),)
    resumed = changed(whole, output=str(tmp_path / "resumed"), earlier=earlier)
    assert "resuming after step 24" in run(CONFIG, resumed, ranks=2)
    assert contents(Path(resumed.output)) == contents(Path(whole.output))


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_the_portable_form_alone_resumes_bit_for_bit_too(stage: int, place: Place, tmp_path: Path) -> None:
    whole = changed(place, output=str(tmp_path / "whole"), deepspeed=zero(stage), portable_only=True, keep_every=12)
    run(CONFIG, whole, ranks=2)
    checkpoints = Path(whole.output) / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == [f"step-{n:08d}" for n in (12, 24, 27, 30)]
    assert not list(checkpoints.glob("*/deepspeed"))
    for step in (24, 27, 30):
        shutil.rmtree(checkpoints / f"step-{step:08d}")
    resumed = changed(whole, output=str(tmp_path / "resumed"), earlier=(str(checkpoints),))
    assert "resuming after step 12" in run(CONFIG, resumed, ranks=2)
    assert contents(Path(resumed.output)) == contents(Path(whole.output))


def test_sigterm_to_one_rank_ends_all_after_the_same_step_with_a_checkpoint(place: Place, tmp_path: Path) -> None:
    """No checkpoint is due before the end: the one there is, was made for the signal."""
    again = changed(place, output=str(tmp_path / "again"), checkpoint_every=0, trace=True)
    process = start(CONFIG, again, ranks=2)
    traces = Path(again.output) / "trace"
    deadline = time.monotonic() + 120
    while len(list(traces.glob("rank-*"))) < 2 or len((traces / "rank-00001.jsonl").read_text().splitlines()) < 5:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    ranks = [child for child in psutil.Process(process.pid).children(recursive=True) if "gpt1.train.pretrain" in child.cmdline()]
    ranks[-1].send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    stopped = re.search(r"stopped on request after step (\d+)", printed)
    assert stopped, printed
    [checkpoint] = (Path(again.output) / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{int(stopped[1]):08d}"
    assert 1 <= int(stopped[1]) < CONFIG.steps
    assert f"resuming after step {stopped[1]}" in run(CONFIG, again, ranks=2)
    assert contents(Path(again.output)) == contents(Path(place.output))


def flip(file: Path) -> None:
    """Change one byte in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def truncate(file: Path) -> None:
    """Cut off the second half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
