"""The tutorial's first part, followed: its commands end well, and what it says they print is what they print, figures masked."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.workflow import gpt1

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
FIRST = TUTORIAL[TUTORIAL.index("## 1.") : TUTORIAL.index("## 2.")]


def masked(line: str) -> str:
    """A line with its times, losses and counts as #, and its spaces as one."""
    return " ".join(re.sub(r"[\d,.:]*\d", "#", line).split())


def quoted() -> list[str]:
    """The lines the tutorial shows as printed, without the time at their start, whose form depends on the machine's speed."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", FIRST, re.MULTILINE | re.DOTALL)
    [block] = [text for language, text in blocks if not language]
    return [after_time(line) for line in block.splitlines()]


def after_time(line: str) -> str:
    return masked(re.sub(r"^\s*[\d:.]+(?: s)?\s{2}", "", line))


@pytest.mark.slow
@pytest.mark.long
def test_the_first_part_word_for_word(tmp_path: Path) -> None:
    store = tmp_path / "store"
    ran = gpt1("run", "--profile", "demo", "--store", store, timeout=1800)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr
    assert len(quoted()) >= 3
    printed = {after_time(line) for line in ran.stdout.splitlines()}
    assert [line for line in quoted() if line not in printed] == []
    shown = re.findall(r"^gpt1 (?!ui|run|diff)(.*?)(?:\s+#.*)?$", FIRST, re.MULTILINE)
    assert len(shown) >= 4
    for words in shown:
        done = gpt1(*shlex.split(words), "--store", store)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        assert done.stdout.strip(), words
