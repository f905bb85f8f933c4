"""What a user can get wrong: one clear line and exit status 2."""

import re
from pathlib import Path
from typing import Any

import pytest

from gpt1.fault import VARIABLE
from tests.e2e.workflow import MINI
from tests.e2e.workflow import gpt1 as alone
from tests.pipeline.inprocess import refused


def one_line(expected: str, *words: object, **options: Any) -> str:
    """What a command says that is refused: one line, with this in it."""
    said = refused(f"^gpt1: .*{re.escape(expected)}", *words, **options)
    assert len(said.splitlines()) == 1, said
    return said


@pytest.mark.parametrize(("old", "new", "found"), [
    ("warmup_steps:", "warmup_step:", "did you mean 'warmup_steps'?"),
    ("heads: 2", "heads: 3", "width 32 is not divisible by heads 3"),
    ("max_length: 32", "max_length: 64", "max_length 64 is longer than the model's context"),
    ("held_out: 0.3", "held_out: 3", "held_out"),
])  # fmt: skip
def test_a_wrong_workflow(tmp_path: Path, old: str, new: str, found: str) -> None:
    text, file = MINI.read_text(), tmp_path / "workflow.yaml"
    assert old in text
    file.write_text(text.replace(old, new, 1))
    said = one_line(found, "run", "--file", file, "--store", tmp_path / "store")
    assert "workflow.yaml:" in said


WRONG = ["--profile huge", "--code never", "--from nothing", "--set ingest.source=nowhere"]


@pytest.mark.parametrize("option", WRONG)
def test_a_wrong_command_line(tmp_path: Path, option: str) -> None:
    words = ("run", *option.split(), "--file", MINI, "--store", tmp_path / "store")
    one_line(re.split("[ =]", option)[-1], *words)


def test_a_fault_that_is_none_is_refused_before_anything_starts(tmp_path: Path) -> None:
    ended = alone("run", "--file", MINI, "--store", tmp_path, **{VARIABLE: "part.writen@/x"})
    [line] = ended.stderr.splitlines()
    assert (ended.returncode, "'part.writen@/x' is not a fault" in line) == (2, True)
