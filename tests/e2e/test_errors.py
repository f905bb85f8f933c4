"""What a user can get wrong: one clear line, exit status 2, and nothing lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.workflow import MINI, gpt1, records, run_mini


def refused(tmp_path: Path, *words: str, file: Path = MINI) -> str:
    """The one line that the command ends with."""
    ended = gpt1("run", "--file", file, "--store", tmp_path / "store", *words)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("gpt1: ")
    return lines[0]


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = MINI.read_text()
    assert old in text
    file = tmp_path / "workflow.yaml"
    file.write_text(text.replace(old, new, 1))
    return file


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_lr:", "max_rl:", "unknown key 'stages.pretrain.with.max_rl'; did you mean 'max_lr'?"),
        ("  clean:\n", "  clean:\n    uses: cleen\n", "unknown stage 'cleen'; did you mean 'clean'?"),
        ("needs: [ingest]", "needs: [report]", "cycle in `needs:`"),
        ("heads: 2", "heads: 3", "width 32 is not divisible by heads 3"),
        ("micro_batch: 4", "micro_batch: 5", "micro_batch 5 does not divide batch 16"),
        ("max_length: 32", "max_length: 64", "max_length 64 is longer than the model's context of 32"),
        ("transferred: [0, 1, 2]", "transferred: [0, 1, 3]", "the pre-trained model has 2 layers"),
        ("demo_author], seed", "demo_similarity], seed", "no task_data cell makes task 'demo_similarity'"),
        ("steps: 120", "steps: none", "steps"),
        ("held_out: 0.3", "held_out: 3", "held_out"),
    ],
)  # fmt: skip
def test_a_wrong_workflow(tmp_path: Path, old: str, new: str, message: str) -> None:
    line = refused(tmp_path, file=changed(tmp_path, old, new))
    assert message in line
    assert "workflow.yaml:" in line


def test_a_missing_path(tmp_path: Path) -> None:
    assert "nowhere" in refused(tmp_path, "--set", f"ingest.source={tmp_path / 'nowhere'}")


def test_an_empty_corpus(tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    assert ".txt" in refused(tmp_path, "--set", f"ingest.source={tmp_path / 'books'}")


@pytest.mark.parametrize(
    "words", [["--profile", "huge"], ["finetun"], ["--set", "pretrain.max_lr"], ["--code", "never"], ["--from", "x"]]
)
def test_a_wrong_command_line(tmp_path: Path, words: list[str]) -> None:
    refused(tmp_path, *words)


@pytest.mark.slow
def test_a_file_that_is_not_text_stops_a_strict_run_and_the_other_parts_stay(tmp_path: Path) -> None:
    books = tmp_path / "books"
    books.mkdir()
    for number in range(8):
        (books / f"book{number}.txt").write_text(f"Chapter {number}. It was a dark and stormy night.\n" * 200)
    (books / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR")
    words = ("--set", f"ingest.source={books}", "--set", "ingest.on_error=stop")
    ended = run_mini(tmp_path / "store", "clean", *words)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "picture.txt" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    made = records(tmp_path / "store", "ingest.parts")
    (books / "picture.txt").unlink()
    assert run_mini(tmp_path / "store", "clean", *words).returncode == 0
    after = records(tmp_path / "store", "ingest.parts")
    assert made
    assert {name: after[name] for name in made} == made
