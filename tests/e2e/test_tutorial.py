"""The tutorial, word for word: in a fresh clone each command prints what the page says."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from gpt1.corpus.demo_corpus import embedded_files, embedded_naming
from tests.conftest import ROOT
from tests.e2e.transcript import missing, steps
from tests.servers.process import free_port

pytestmark = pytest.mark.chaos
LONGEST = 1800  # seconds that one command may take


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a newcomer has: the committed files, and some books, a folder an author."""
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True).returncode:
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
    """In a shell of its own, after what changed the shell: its exit status, both streams as one."""
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "GPT1_STORE")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
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


def test_word_for_word(clone: Path) -> None:
    """Installs an environment (2.6 GB, from the package registry), runs the demo and more."""
    before: list[str] = []
    wrong = []
    for step in steps((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")):
        if step.command.startswith(". "):
            before.append(step.command)
            continue
        status, printed = type_in(clone, step.command, before)
        assert status == step.status, f"{step.command}: exit status {status}\n{printed[-3000:]}"
        absent = missing(step.shown, printed.splitlines())
        if absent is not None:
            wrong.append(f"$ {step.command}\nnot printed: {absent}\nprinted:\n{printed[-3000:]}")
    assert wrong == []
