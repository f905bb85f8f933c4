"""The tutorial, word for word: in a fresh clone every command is typed as it stands and prints what the page says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from gpt1.corpus.embedded import embedded_files, embedded_naming
from tests.conftest import ROOT
from tests.e2e.transcript import Step, masked, missing, steps
from tests.servers.process import free_port

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
LONGEST = 1800  # seconds that one command may take


def test_a_transcript_is_compared_line_by_line() -> None:
    [first, second] = steps("```console\n$ one\n  1.5 s  cell  loss 3.2 in /a/b/c.html\n...\nend\n$ two\n$ echo $?\n2\n```\n")
    assert (first.command, first.status, second) == ("one", 0, Step("two", [], 2))
    printed = ["   1:02  cell  loss 17.25 in /x/c.html", "more", "end"]
    assert missing(first.shown, printed) is None
    assert missing(first.shown, printed[:2]) == "end"
    assert missing(first.shown, ["  1.5 s  cell  gain 3.2 in /a/b/c.html", "end"]) == first.shown[0]
    assert missing(first.shown, [*printed, "after"]) == "(the page ends before) after"
    assert missing(["one"], ["zero", "one"]) == "one"
    assert missing(["the old ...", "..."], ["the old man sat", "by the sea"]) is None
    assert missing(["the old ..."], ["an old man"]) == "the old ..."
    assert masked("finetune[task=a]  20261127-044733-ab12 0fa3bc99 took 4 min 31 s") == "finetune[task=a] # # took #"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a newcomer has: the committed files, no environment; and some books of their own, a folder an author."""
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("not a git repository: nothing to clone")
    folder = tmp_path / "gpt1"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    for name, path in embedded_files(["brontes", "russian_lit"]).items():
        title, author = embedded_naming(name)
        place = folder / "my_books" / (author or "unknown")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / f"{title}.txt")
    return folder


def type_in(folder: Path, command: str, before: list[str]) -> tuple[int, str]:
    """In a shell of its own, after the commands that changed the shell: its exit status, and both streams as one."""
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "GPT1_STORE")}
    serves = command == "gpt1 ui"
    lines = "\n".join([*before, f"exec {command} --port {free_port()}" if serves else command])
    shell = subprocess.Popen(
        ["bash", "-c", lines], cwd=folder, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert shell.stdout is not None
        said = shell.stdout.readline() if serves else ""
        if serves:
            shell.send_signal(signal.SIGINT)  # the page's Ctrl-C
        said += shell.communicate(timeout=LONGEST)[0]
    except BaseException:
        os.killpg(shell.pid, signal.SIGKILL)
        raise
    return shell.returncode, said


@pytest.mark.slow
@pytest.mark.long
def test_word_for_word(clone: Path) -> None:
    """Installs an environment (2.6 GB, from the package registry), runs the demo, a change of it, and a short run on own books."""
    before: list[str] = []
    wrong = []
    for step in steps(TUTORIAL):
        print(f"$ {step.command}", flush=True)
        if step.command.startswith(". "):
            before.append(step.command)
            continue
        status, printed = type_in(clone, step.command, before)
        assert status == step.status, f"{step.command}: exit status {status}\n{printed[-3000:]}"
        absent = missing(step.shown, printed.splitlines())
        if absent is not None:
            wrong.append(f"$ {step.command}\nnot printed: {absent}\nprinted:\n{printed[-3000:]}")
            print(wrong[-1], flush=True)
    assert wrong == []
