"""`gpt1 pack`: the folder it writes trains by itself, wherever it is, and ends as a checkpoint."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpt1.data.shards import TokenShards
from gpt1.train.pretrain_config import from_json
from gpt1.weights.checkpoint import load_checkpoint
from tests.conftest import ROOT
from tests.e2e.workflow import MINI
from tests.pipeline.inprocess import Ended, gpt1

pytestmark = pytest.mark.slow


def pack(folder: Path, store: Path, *words: object, **settings: object) -> Ended:
    given = [
        word for key, value in settings.items() for word in ("--set", f"pretrain.{key}={value}")
    ]
    return gpt1("pack", folder, "--file", MINI, "--store", store, *given, *words)


def train(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpt1.train.pretrain", "--config", str(folder / "run.json")]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_folder_trains_elsewhere_and_another_training_begins_with_its_weights(
    golden_run: Path, tmp_path: Path
) -> None:
    pack(tmp_path / "packed", golden_run, steps=12, warmup=2)
    folder = Path(shutil.move(tmp_path / "packed", tmp_path / "moved"))
    done = train(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    trained = load_checkpoint(folder / "output").model
    assert trained.config == from_json(folder / "run.json")[0].model
    metrics = (folder / "output" / "metrics.jsonl").read_text().splitlines()
    assert '"step": 12' in metrics[-1]

    still, following = {"steps": 1, "warmup": 0, "max_lr": 1e-12}, tmp_path / "next"
    pack(following, golden_run, init_from=folder / "output", **still)
    pack(tmp_path / "other", golden_run, init_from=folder / "output", heads=4, **still)
    shutil.rmtree(folder)  # its weights were packed
    done = train(following)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, tensor in load_checkpoint(following / "output").model.state_dict().items():
        assert (tensor - trained.state_dict()[name]).abs().max() < 1e-9, name
    given = following / "init_from" / "model.safetensors"
    given.write_bytes(given.read_bytes()[:-1] + b"\x55")  # of its last tensor
    for folder, message in (
        (following, f"{given} has sha256"),
        (tmp_path / "other", "another shape (heads 2, here 4)"),
    ):
        done = train(folder)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_a_part_of_the_text(golden_run: Path, tmp_path: Path) -> None:
    tokens = []
    for words in ((), ("--parts", 1)):
        folder = tmp_path / str(len(words))
        assert pack(folder, golden_run, *words).status == 0
        _, place = from_json(folder / "run.json")
        parts = [Path(path) for path in place.train]
        tokens.append(TokenShards.open(parts, Path(place.books), "train").tokens)
    assert 0 < tokens[1] < tokens[0]


@pytest.mark.parametrize(
    "broken", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_pack_that_breaks_off_leaves_nothing_and_can_be_done_again(
    golden_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: BaseException
) -> None:
    copied: list[Path] = []

    def copy(source: Path, target: Path) -> None:
        if len(copied) == 1:
            raise broken
        copied.append(target)
        target.write_bytes(source.read_bytes())

    with monkeypatch.context() as full:
        full.setattr(shutil, "copyfile", copy)
        ended = pack(tmp_path / "packed", golden_run)
    if isinstance(broken, OSError):
        assert (ended.status, "No space left on device" in ended.err) == (2, True), ended
    assert (ended.status, len(copied), list(tmp_path.iterdir())) == (ended.status or 1, 1, [])
    assert pack(tmp_path / "packed", golden_run).status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]
    assert (tmp_path / "packed" / "run.json").is_file()


def test_what_is_not_made_not_named_or_there_is_said(golden_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full" / "file").mkdir(parents=True)
    paper = ("--file", ROOT / "workflow.yaml", "--profile", "paper")
    for folder, store, words, message in (
        ("packed", "empty", (), "run `gpt1 run shard`"),
        ("packed", "empty", paper, "are: pretrain[model=gpt], pretrain[model=lstm]"),
        (
            "packed", "nowhere", (),
            f"there is no store {tmp_path / 'nowhere'}; name one with --store",
        ),
        ("full", golden_run, (), "exists and is not empty"),
    ):
        ended = pack(tmp_path / folder, tmp_path / store, *words)
        assert (ended.status, message in ended.err) == (2, True), ended
    assert not (tmp_path / "packed").exists()
