"""Many kills at random moments, and the end of one of two trainings (`make chaos`)."""

import random
import re
import subprocess
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.e2e.workflow import (
    MINI,
    begin,
    checkpoints,
    copy_without,
    done,
    draw_for,
    outputs,
    records,
)
from tests.servers.process import wait_until

pytestmark = pytest.mark.chaos
TEXT = ROOT / "tests" / "e2e" / "text.yaml"
PATIENCE = 450.0  # seconds for what must come, on a machine that others use too
PROCESS = {"rank": "RayTrainWorker", "trainer": "TrainController"}
Victims = Sequence[tuple[str, int]]


def below(driver: int, kind: str, dead: Collection[int] = ()) -> list[psutil.Process]:
    """The processes of one kind of a run, but for the dead."""
    found = []
    for child in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):
            if child.pid not in dead and PROCESS[kind] in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """Of the driver of the text stages, a quarter while it starts; no finished part is redone."""
    draw, log = draw_for("text"), tmp_path / "log"
    done("run", "--file", TEXT, "--store", tmp_path / "calm")
    calm, round_, kills = outputs(tmp_path / "calm"), 0, 0
    while kills < 20:
        round_ += 1
        store, ended, before = tmp_path / f"store{round_}", False, {}
        while not ended:
            log.unlink(missing_ok=True)
            driver = begin(log, "run", "--file", TEXT, "--store", store)
            if kills < 20:
                while kills % 4 and driver.poll() is None and " machine: " not in log.read_text():
                    time.sleep(0.01)
                with suppress(subprocess.TimeoutExpired):
                    driver.wait(draw.uniform(0, 4))
            else:
                driver.wait(PATIENCE)
            if ended := driver.poll() is not None:
                assert driver.returncode == 0, log.read_text()
            else:
                driver.kill()
                driver.wait()
                kills += 1
            after = records(store, "*.parts")
            assert {name: after[name] for name in before} == before, "a finished part is redone"
            before = after
        assert outputs(store) == calm


def kill_in_turn(
    driver: subprocess.Popen[bytes], log: Path, store: Path, victims: Victims, draw: random.Random
) -> int:
    """Kill each victim a moment after a checkpoint at its step; the driver's exit status."""
    dead: set[int] = set()
    for kind, step in victims:
        reached = partial(has_checkpoint, store, step)
        wait_until(reached, f"step {step}", driver, log, PATIENCE, every=0.01)
        time.sleep(draw.uniform(0, 0.1))
        if kind == "driver":
            driver.kill()
            break
        alive = partial(below, driver.pid, kind, dead)
        wait_until(alive, kind, driver, log, PATIENCE, every=0.01)
        killed = draw.choice(alive())
        # All ranks go with one of them, and with their trainer.
        dead |= {killed.pid, *(rank.pid for rank in below(driver.pid, "rank"))}
        killed.kill()
    return driver.wait(PATIENCE)


def has_checkpoint(store: Path, step: int) -> bool:
    """Whether pre-training has one at this step, or after it."""
    return checkpoints(store)[-1:] >= [step]


def test_ten_kills_at_random_moments_leave_no_trace_in_the_weights(
    golden_run: Path, tmp_path: Path
) -> None:
    """Of ranks, of Ray Train's controller, and of the driver, in one pre-training."""
    draw, log, store = draw_for("pretrain"), tmp_path / "log", tmp_path / "store"
    changed = ("max_steps=800", "checkpoint_every=5", "retries=3")
    words = ("pretrain", "--file", MINI, *(f"--set=pretrain.{one}" for one in changed), "--store")
    done("run", *words, copy_without(golden_run, tmp_path / "calm", "pretrain"))
    copy_without(golden_run, store, "pretrain")
    moments = sorted(draw.sample(range(10, 600, 5), 10))
    for kinds in ("rank trainer driver", "trainer rank rank driver", "rank rank trainer"):
        victims = [(kind, moments.pop(0)) for kind in kinds.split()]
        status = kill_in_turn(begin(log, "run", *words, store), log, store, victims, draw)
        assert status == (-9 if "driver" in kinds else 0), log.read_text()[-5000:]
    assert moments == []
    assert outputs(store) == outputs(tmp_path / "calm")


def test_a_training_that_waits_for_its_ranks_is_not_begun_by_the_end_of_another(
    golden_run: Path, tmp_path: Path
) -> None:
    file, log, store = tmp_path / "two.yaml", tmp_path / "log", tmp_path / "store"
    matrix = "needs: [shard, vocabulary]\n    matrix: {seed: [0, 1]}"
    text = MINI.read_text().partition("  task_data:")[0]
    file.write_text(text.replace("needs: [shard, vocabulary]", matrix))
    copy_without(golden_run, store, "pretrain")
    settings = ("--set=pretrain.max_steps=4000", "--set=pretrain.checkpoint_every=0")
    run = begin(log, "run", "pretrain", "--file", file, "--store", store, *settings)
    wait_until(lambda: " steps (" in log.read_text(), "training", run, log)
    children = psutil.Process(run.pid).children(recursive=True)
    assert len(below(run.pid, "rank")) == 2
    run.terminate()
    assert run.wait(timeout=PATIENCE) == 130, log.read_text()
    assert not psutil.wait_procs(children, timeout=10)[1]
    said = log.read_text()
    assert len(re.findall(r"after step \d+; saved a checkpoint", said)) == 1
    assert said.count("2 ranks on ") == 1
    assert said.count("  interrupted, with no training that could save a checkpoint") == 1
