"""Who and what made an artifact: code, versions, machine. Written into every record."""

from __future__ import annotations

import functools
import getpass
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any

from pipeline.kinds import module_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("deepspeed", "ftfy", "mlflow", "numpy", "pyarrow", "ray", "spacy", "torch")


@functools.cache
def code_hash(stage: str) -> str:
    """One hash over the code a stage is made of: its own file, the contract and the library underneath."""
    hashed = hashlib.sha256()
    own = importlib.util.find_spec(module_of(stage))
    files = [ROOT / "stages" / "contract.py", *sorted((ROOT / "gpt1").rglob("*.py"))]
    for path in [Path(own.origin), *files] if own and own.origin else files:
        hashed.update(f"{path.name}\0".encode() + path.read_bytes())
    return hashed.hexdigest()[:24]


@functools.cache
def git_commit() -> str | None:
    """The commit of the code, with `+changes` where the tree differs from it; None outside a repository."""
    try:
        run = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
        commit = run(["git", "rev-parse", "HEAD"]).stdout.strip()
        return commit + ("+changes" if run(["git", "status", "--porcelain", "-uno"]).stdout.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def package_versions() -> dict[str, str]:
    """The versions of the packages that decide results."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def user_name() -> str:
    """Who runs this; the number of an account without a name, as containers have."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def provenance(stage: str) -> dict[str, Any]:
    """The fields of a record that say where it comes from."""
    return {
        "code": code_hash(stage), "git_commit": git_commit(), "packages": package_versions(),
        "host": socket.gethostname(), "user": user_name(), "machine": platform.machine(),
    }  # fmt: skip
