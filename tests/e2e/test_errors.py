"""What a user can get wrong: one clear line, exit status 2, and nothing lost."""

from pathlib import Path

import pytest

from gpt1.fault import VARIABLE
from tests.e2e.workflow import MINI, records
from tests.e2e.workflow import gpt1 as alone
from tests.pipeline.inprocess import Ended, gpt1
from tests.servers.ray_cluster import Cluster


def refused(ended: Ended) -> str:
    """The one line that a command ended with."""
    assert ended.status == 2, ended.out + ended.err
    [line] = ended.err.strip().splitlines()
    assert line.startswith("gpt1: ")
    return line


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("warmup_steps:", "warmup_step:", "did you mean 'warmup_steps'?"),
        ("  clean:\n", "  clean:\n    uses: cleen\n", "'cleen'; did you mean 'clean'?"),
        ("needs: [ingest]", "needs: [report]", "cycle in `needs:`"),
        ("heads: 2", "heads: 3", "width 32 is not divisible by heads 3"),
        ("batch_size: 4", "batch_size: 5", "micro_batch_size 5 does not divide"),
        ("max_length: 32", "max_length: 64", "max_length 64 is longer than the model's context"),
        ("red: [0, 1, 2]", "red: [0, 1, 3]", "the pre-trained model has 2 layers"),
        ("demo_author], seed", "demo_similarity], seed", "'demo_similarity'"),
        ("max_steps: 120", "max_steps: none", "max_steps"),
        ("held_out: 0.3", "held_out: 3", "held_out"),
    ],
)
def test_a_wrong_workflow(tmp_path: Path, old: str, new: str, found: str) -> None:
    text, file = MINI.read_text(), tmp_path / "workflow.yaml"
    assert old in text
    file.write_text(text.replace(old, new, 1))
    line = refused(gpt1("run", "--file", file, "--store", tmp_path / "store"))
    assert found in line
    assert "workflow.yaml:" in line


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("run --set ingest.source=nowhere", "nowhere"),
        ("run --set ingest.source=.", ".txt"),
        ("run --profile huge", "huge"),
        ("run finetun", "finetun"),
        ("run --set pretrain.lr", "pretrain.lr"),
        ("run --code never", "never"),
        ("run --from x", "x"),
        ("submit --address http://127.0.0.1:1", "no Ray cluster answers"),
    ],
)
def test_a_wrong_command_line(tmp_path: Path, words: str, found: str) -> None:
    ended = gpt1(*words.split(), "--file", MINI, "--store", tmp_path / "store", cwd=tmp_path)
    assert found in refused(ended)


def test_a_fault_that_is_none_is_refused_before_anything_starts(tmp_path: Path) -> None:
    ended = alone("run", "--file", MINI, "--store", tmp_path, **{VARIABLE: "part.writen@/x"})
    assert "'part.writen@/x' is not a fault" in refused(Ended(ended.returncode, "", ended.stderr))


@pytest.mark.slow
def test_a_file_that_is_not_text_stops_a_strict_run_and_the_other_parts_stay(
    tmp_path: Path, ray_head: Cluster
) -> None:
    books, store = tmp_path / "books", tmp_path / "store"
    books.mkdir()
    for number in range(8):
        text = f"Chapter {number}. It was a dark and stormy night.\n" * 200
        (books / f"book{number}.txt").write_text(text)
    (books / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR")
    settings = ("--set", f"ingest.source={books}", "--set", "ingest.on_error=stop")
    words = ("run", "clean", "--file", MINI, "--store", store, *settings)
    ended = gpt1(*words, cluster=ray_head)
    assert ended.status == 2, ended.out + ended.err
    assert "picture.txt" in ended.err
    assert "Traceback" not in ended.out + ended.err
    made = records(store, "ingest.parts")
    assert made
    (books / "picture.txt").unlink()
    assert gpt1(*words, cluster=ray_head).status == 0
    after = records(store, "ingest.parts")
    assert {name: after[name] for name in made} == made
