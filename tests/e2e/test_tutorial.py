"""The tutorial, word for word: in a fresh clone each command prints what the page says.

A line of the page's `console` blocks that begins with `$ ` is a command, the lines under it are its
output; `...` is for any lines left out. `$ echo $?` shows the exit status of the command before, 0
where the page does not say.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gpt1.corpus.demo_corpus import embedded_files, embedded_naming
from tests.conftest import ROOT
from tests.servers.process import free_port

pytestmark = pytest.mark.chaos
LONGEST = 1800  # seconds that one command may take
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_OUT = "..."
STATUS = "$ echo $?"
RUN = r"\b\d{8}-\d{6}-[0-9a-f]{4}\b"
DIGEST = r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,}\b"
TIME = r"(?:\d+h )?(?:\d+m )?\d+(?:\.\d+)?(?:s|m|h)"
SPAN = rf"(?<![\w.]){TIME}\b"
MASKS = (
    (rf"^\s*(?:{TIME}|[\d:]+)\s{{2}}(?=\S)", ""),  # the time since the start before a line of a run
    (r"(?<![\w.])/\S*/(?=[\w.])", ""),  # folders
    (rf"{RUN}|{DIGEST}", "#"),
    (rf"{SPAN}|\b\d+:\d\d(?::\d\d)?\b", "#"),
    (r"[\d,.]*\d", "#"),
    (r"\s+", " "),
)


@dataclass
class Step:
    """A command, the lines that the page shows under it, and how it ends."""

    command: str
    shown: list[str] = field(default_factory=list)
    status: int = 0


def steps(text: str) -> list[Step]:
    """The commands of a page, in order."""
    found: list[Step] = []
    for block in BLOCK.findall(text):
        asked = False
        for line in block.splitlines():
            if asked:
                found[-1].status = int(line)
            elif line.startswith("$ ") and line != STATUS:
                found.append(Step(line[2:]))
            elif line != STATUS:
                found[-1].shown.append(line)
            asked = line == STATUS
    return found


def masked(line: str) -> str:
    """A line without times, ids, folders, figures and the width of its columns."""
    for pattern, put in MASKS:
        line = re.sub(pattern, put, line)
    return line.strip()


def _same(printed: str, wanted: str) -> bool:
    """A line that ends with `...` is every line that begins in the same way."""
    begins = printed.startswith(wanted.removesuffix(LEFT_OUT))
    return begins if wanted.endswith(LEFT_OUT) else printed == wanted


def missing(shown: Sequence[str], printed: Sequence[str]) -> str | None:
    """The first line not printed where the page has it, or None. Blank lines do not count."""
    lines = [masked(line) for line in printed if line.strip()]
    place, loose = 0, False
    for line in shown:
        if line.strip() == LEFT_OUT:
            loose = True
        elif line.strip():
            wanted = masked(line)
            fits = (n for n in range(place, len(lines)) if _same(lines[n], wanted))
            at = next(fits, None)
            if at is None or (at > place and not loose):
                return line
            place, loose = at + 1, False
    return None if loose or place == len(lines) else f"(the page ends before) {lines[place]}"


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
