"""What a step frees stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

PROGRAM = """
import resource, sys
import torch
from gpt1.train.host_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 << 20)  # 64 MB, which glibc maps and unmaps each time
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    kept = keep_freed_memory()
    faults()
    print(kept, faults())
else:
    print(None, faults())
"""


def counted(how: str) -> tuple[str, int]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    kept, faults = done.stdout.split()
    return kept, int(faults)


def test_freed_memory_is_not_mapped_anew() -> None:
    kept, few = counted("keep")
    if kept != "True":
        pytest.skip("the C library is not glibc")
    _, many = counted("leave")
    assert few < many / 10, (few, many)
