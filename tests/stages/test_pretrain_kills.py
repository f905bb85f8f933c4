"""Ten kills at random moments in one pre-training: ranks, torchrun, Ray's trainer and the `gpt1 run` driver. The weights, and all
other files that are not timings, are the same bytes as an undisturbed run's.

The moments are drawn anew each time; GPT1_KILL_SEED=N repeats those of a run that printed N.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gpt1.text.vocabulary import Vocabulary
from gpt1.train.pretrain_config import DEEPSPEED_FOLDER, Place, PretrainConfig
from pipeline.plan import Plan, Selection
from stages.contract import Artifact
from stages.pretrain import PretrainSettings, _config
from tests.conftest import ROOT
from tests.gpt1.tiny_pretraining import contents, run, start
from tests.pipeline.inline import plan_of, run_inline

STEPS = 400
PATIENCE = 450.0  # seconds to wait for what must come, on a machine that others use too
SETTINGS = {
    "layers": 2, "width": 32, "heads": 2, "context": 16, "batch": 16, "micro_batch": 4, "steps": STEPS, "max_lr": 5e-3,
    "warmup": 10, "log_every": 10, "validate_every": 0, "sample_tokens": 8, "snapshot_every": 150, "checkpoint_every": 5,
}  # fmt: skip
WORKFLOW = """stages:
  ingest:
    with: {{source: embedded, folders: [problemC], parts: 2}}
  clean:
    needs: [ingest]
  split:
    needs: [clean]
    with: {{held_out: 0.3, tail: 0.0}}
  vocabulary:
    needs: [clean, split]
    with: {{merges: 200}}
  shard:
    needs: [clean, split, vocabulary]
  pretrain:
    needs: [shard, vocabulary]
    with: {settings}
    resources: {{workers: 2, cpus: 1}}
    retries: 3
"""
UNDER_TORCHRUN = ("rank", "torchrun", "rank", "torchrun", "rank")
UNDER_THE_DRIVER = (("rank", "trainer", "driver"), ("trainer", "rank"))
"""Victims of each `gpt1 run`; the last one ends by itself. Ranks and trainers are mended within a run (Ray Train, `retries:`)."""
PROCESS = {"rank": "RayTrainWorker", "trainer": "TrainController"}


def made(plan: Plan, stage: str) -> Artifact:
    found = plan.store.artifact(stage, plan.entries[stage].fingerprint)
    assert found is not None
    return found


def same_training(plan: Plan, output: Path) -> tuple[PretrainConfig, Place]:
    """What the stage would give its ranks, for torchrun."""
    vocabulary, shards = made(plan, "vocabulary"), made(plan, "shard")
    folder = vocabulary.under("encoder_bpe_")[0].path.parent
    place = Place(
        train=tuple(str(file.path) for file in shards.under("train/")),
        held_out=tuple(str(file.path) for file in shards.under("held_out/")),
        books=str(shards.path("books.parquet")),
        vocabulary=str(folder),
        output=str(output),
        deepspeed=str(DEEPSPEED_FOLDER / "zero1.json"),
        checkpoint_every=SETTINGS["checkpoint_every"],
        device="cpu",
        threads=1,
    )
    return _config(PretrainSettings(**SETTINGS), Vocabulary.load(folder)), place  # type: ignore[arg-type]


def newest(folders: list[Path]) -> int:
    """The step of the newest checkpoint."""
    found = [int(path.name.removeprefix("step-")) for folder in folders for path in folder.glob("step-*")]
    return max(found, default=0)


def until(ready: Callable[[], bool], process: subprocess.Popen[str] | subprocess.Popen[bytes], log: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, log()
        assert time.monotonic() < deadline, log()
        time.sleep(0.005)


def below(pid: int, word: str) -> list[psutil.Process]:
    """The processes below `pid` whose command line has `word`."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if word in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def kill_under_torchrun(config: PretrainConfig, place: Place, victim: str, step: int, draw: random.Random) -> None:
    """Start, wait for the checkpoint at `step`, kill the victim a moment later, and what is left of its group after that."""
    process = start(config, place, ranks=2)

    def ready() -> bool:
        """The kill before may have come later than this one's step, so the ranks may still be to come."""
        return newest([Path(place.output) / "checkpoints"]) >= step and bool(below(process.pid, "gpt1.train.pretrain"))

    until(ready, process, lambda: process.communicate()[0])
    time.sleep(draw.uniform(0, 0.1))
    ranks = below(process.pid, "gpt1.train.pretrain")
    (draw.choice(ranks) if victim == "rank" else psutil.Process(process.pid)).send_signal(signal.SIGKILL)
    time.sleep(draw.uniform(0, 0.5))
    for left in [*ranks, psutil.Process(process.pid)]:
        if left.is_running():
            left.kill()
    process.communicate()


def drive(command: list[str], victims: tuple[str, ...], steps: list[int], folders: Callable[[], list[Path]], log: Path) -> bool:
    """`gpt1 run`, killing one victim at each of the steps; whether it came to its end."""
    with log.open("ab") as out:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
    try:
        return watch(driver, victims, steps, folders, log)
    finally:
        if driver.poll() is None:  # the test failed
            for process in [*below(driver.pid, ""), driver]:
                with contextlib.suppress(psutil.Error):
                    process.kill()


def watch(
    driver: subprocess.Popen[bytes], victims: tuple[str, ...], steps: list[int], folders: Callable[[], list[Path]], log: Path
) -> bool:
    """Kill the victims of a driver that has begun; whether it came to its end."""
    draw, dead = random.Random(steps[0]), set[int]()

    def alive(victim: str) -> list[psutil.Process]:
        return [process for process in below(driver.pid, PROCESS[victim]) if process.pid not in dead]

    for victim, step in zip(victims, steps, strict=True):
        until(lambda step=step: newest(folders()) >= step, driver, log.read_text)  # type: ignore[misc]
        time.sleep(draw.uniform(0, 0.1))
        if victim == "driver":
            driver.kill()
            driver.wait()
            return False
        until(lambda victim=victim: bool(alive(victim)), driver, log.read_text)  # type: ignore[misc]
        killed = draw.choice(alive(victim))
        dead |= {killed.pid, *(rank.pid for rank in alive("rank"))}  # all ranks go with one of them, and with their trainer
        killed.send_signal(signal.SIGKILL)
    assert driver.wait(timeout=PATIENCE) == 0, log.read_text()[-5000:]
    return True


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_no_trace_in_the_weights(tmp_path: Path) -> None:
    seed = int(os.environ.get("GPT1_KILL_SEED", time.time_ns() % 10_000))
    print(f"GPT1_KILL_SEED={seed}")
    draw = random.Random(seed)
    file, store = tmp_path / "workflow.yaml", tmp_path / "store"
    file.write_text(WORKFLOW.format(settings=SETTINGS).replace("'", ""))
    before = plan_of(file, store, selection=Selection(stages=("shard",)))
    run_inline(before)
    plan = plan_of(file, store)
    fingerprint = plan.entries["pretrain"].fingerprint

    config, undisturbed = same_training(plan, tmp_path / "undisturbed")
    run(config, undisturbed, ranks=2)

    kills = len(UNDER_TORCHRUN) + sum(map(len, UNDER_THE_DRIVER))
    assert kills == 10
    moments = sorted(draw.sample(range(10, STEPS - 100, 5), kills))
    attempt = plan.store.new_attempt("pretrain", fingerprint)
    disturbed = dataclasses.replace(undisturbed, output=str(attempt))
    for victim, step in zip(UNDER_TORCHRUN, moments, strict=False):
        kill_under_torchrun(config, disturbed, victim, step, draw)

    def folders() -> list[Path]:
        return list(plan.store.folder("pretrain", fingerprint).glob("*/checkpoints"))

    command = [sys.executable, "-m", "pipeline.cli", "run", "--file", str(file), "--store", str(store), "pretrain"]
    log = tmp_path / "driver.log"
    moments = moments[len(UNDER_TORCHRUN) :]
    for victims in UNDER_THE_DRIVER:
        ended = drive(command, victims, moments[: len(victims)], folders, log)
        moments = moments[len(victims) :]
        assert ended is ("driver" not in victims)
    assert moments == []
    files = made(plan_of(file, store), "pretrain").files
    published = {name: file.path.read_bytes() for name, file in files.items() if not file.volatile}
    assert published == contents(Path(undisturbed.output))
    shutil.rmtree(store)
