"""Python environments of their own, for what must work without this project's packages."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest


def make(folder: Path, *packages: str, see_ours: bool = False) -> Path:
    """The Python of a new environment with these packages; skips where they cannot be installed."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    if see_ours:  # torch is large; this project, which a .pth file there names, is not found
        place = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        (Path(place) / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", *packages]
    done = subprocess.run(
        pip, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1] if errors else "pip failed"
        pytest.skip(f"{', '.join(packages)} cannot be installed here: {reason}")
    found = subprocess.run(
        [python, "-c", "import gpt1"], cwd=folder, capture_output=True, check=False
    )
    assert found.returncode != 0, "the environment sees this project"
    return python
