"""`gpt1 pack`: the folder it writes trains by itself, wherever it lies, and ends as a checkpoint."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpt1.data.shards import TokenShards
from gpt1.errors import UserError
from gpt1.train.pretrain_config import from_json
from gpt1.weights.checkpoint import load_checkpoint
from pipeline.cli import main
from pipeline.commands.pack import pack
from pipeline.plan import Selection
from tests.conftest import ROOT
from tests.pipeline.inline import plan_of, run_inline

TINY = ROOT / "tests" / "stages" / "pretrain_workflow.yaml"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    run_inline(plan_of(TINY, folder, selection=Selection(stages=("shard",))))
    return str(folder)


def train(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpt1.train.pretrain", "--config", str(folder / "run.json")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_the_folder_trains_elsewhere_and_another_training_begins_with_its_weights(store: str, tmp_path: Path) -> None:
    pack(tmp_path / "packed", file=TINY, assignments=["pretrain.steps=12", "pretrain.warmup=2"], store=store)
    folder = Path(shutil.move(tmp_path / "packed", tmp_path / "moved"))
    done = train(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    trained = load_checkpoint(folder / "output").model
    assert trained.config == from_json(folder / "run.json")[0].model
    assert '"step": 12' in (folder / "output" / "metrics.jsonl").read_text().splitlines()[-1]

    still = [f"pretrain.init_from={folder / 'output'}", "pretrain.steps=1", "pretrain.warmup=0", "pretrain.max_lr=1e-12"]
    pack(tmp_path / "next", file=TINY, assignments=still, store=store)
    shutil.rmtree(folder)  # its weights were packed
    done = train(tmp_path / "next")
    assert done.returncode == 0, done.stdout + done.stderr
    for name, tensor in load_checkpoint(tmp_path / "next" / "output").model.state_dict().items():
        assert (tensor - trained.state_dict()[name]).abs().max() < 1e-9, name
    given = tmp_path / "next" / "init_from" / "model.safetensors"
    given.write_bytes(given.read_bytes()[:-1] + b"\x55")  # of its last tensor
    done = train(tmp_path / "next")
    assert (done.returncode, f"{given} has sha256" in done.stderr) == (2, True), done.stderr
    still[0] = f"pretrain.init_from={tmp_path / 'next' / 'output'}"
    pack(tmp_path / "other", file=TINY, assignments=[*still, "pretrain.heads=4"], store=store)
    done = train(tmp_path / "other")
    assert (done.returncode, "another shape (heads 2, here 4)" in done.stderr) == (2, True), done.stderr


def test_a_part_of_the_text(store: str, tmp_path: Path) -> None:
    tokens = []
    for name, parts in (("all", None), ("one", 1)):
        pack(tmp_path / name, file=TINY, store=store, parts=parts)
        _, place = from_json(tmp_path / name / "run.json")
        tokens.append(TokenShards.open([Path(path) for path in place.train], Path(place.books), "train").tokens)
    assert 0 < tokens[1] < tokens[0]
    with pytest.raises(UserError, match="exists and is not empty"):
        pack(tmp_path / "one", file=TINY, store=store)


def test_what_is_not_made_or_not_named_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"shard is not made yet.*run `gpt1 run shard`"):
        pack(tmp_path / "packed", file=TINY, store=str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"--cell.*pretrain\[model=gpt\], pretrain\[model=lstm\]"):
        pack(tmp_path / "packed", file=ROOT / "workflow.yaml", store=str(tmp_path / "empty"))
    assert not (tmp_path / "packed").exists()


def command(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> object:
    """The exit status of `gpt1` with these words; None for 0."""
    monkeypatch.setattr(sys, "argv", ["gpt1", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_a_store_that_is_missing_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "pack", tmp_path / "packed", "--file", TINY, "--store", tmp_path / "nowhere") == 2
    assert capsys.readouterr().err == f"gpt1: there is no store {tmp_path / 'nowhere'}; name one with --store\n"


@pytest.mark.parametrize("broken", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_pack_that_breaks_off_leaves_nothing_and_can_be_done_again(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: BaseException
) -> None:
    copied: list[Path] = []

    def copy(source: Path, target: Path) -> None:
        if len(copied) == 1:
            raise broken
        copied.append(target)
        target.write_bytes(source.read_bytes())

    words = ("pack", tmp_path / "packed", "--file", TINY, "--store", store)
    with monkeypatch.context() as full:
        full.setattr(shutil, "copyfile", copy)
        status = command(monkeypatch, *words)
    if isinstance(broken, OSError):
        [line] = capsys.readouterr().err.splitlines()
        assert (status, "No space left on device" in line) == (2, True), line
    assert len(copied) == 1
    assert list(tmp_path.iterdir()) == []
    assert command(monkeypatch, *words) in (None, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]
    assert (tmp_path / "packed" / "run.json").is_file()
