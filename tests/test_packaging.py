"""What a newcomer starts from: the lock fits project and environment; set-up refuses clearly."""

import importlib.metadata as metadata
import json
import os
import re
import shutil
import site
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.only import closure

MINI = ROOT / "tests" / "e2e" / "mini.yaml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LINES = (*PROJECT["dependencies"], *EXTRAS["server"], *EXTRAS["dev"])
DIRECT = [Requirement(line) for line in LINES]
LOCK = (ROOT / "requirements.lock").read_text()
LOCKED = re.findall(r"^([\w.-]+)==(\S+)$", LOCK, re.MULTILINE)
PINS = {canonicalize_name(name): version for name, version in LOCKED}


def test_the_lock_pins_all_that_is_needed_as_it_is_installed_here() -> None:
    assert set(re.findall(r"^[^#\s].*$", LOCK, re.MULTILINE)) == {"==".join(pin) for pin in LOCKED}
    # torch brings its CUDA libraries in that build alone, for which the lock has a part of its own.
    assert closure(DIRECT) - set(PINS) == set()
    for line in DIRECT:
        assert line.specifier.contains(PINS[canonicalize_name(line.name)]), line
    # Not all of sys.path: torch.compile puts the packages inside setuptools there.
    for found in metadata.distributions(path=site.getsitepackages()):
        version = found.version.partition("+")[0]
        name = canonicalize_name(found.metadata["Name"])
        assert PINS.get(name, version) == version, f"{name}: another version than the lock's"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that set-up needs, without an environment."""
    (tmp_path / "infra").mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "infra/install.sh"):
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def run(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Without the variables of an outer make, which would change what an inner one prints."""
    kept = {key: os.environ[key] for key in os.environ if "MAKE" not in key and key != "MFLAGS"}
    how: Any = {"cwd": cwd, "env": {**kept, **environment}, "timeout": 600}
    return subprocess.run(words, capture_output=True, text=True, **how)


KILLED = "python3 -m venv --without-pip .venv; touch .venv/.installing"


@pytest.mark.parametrize(("before", "stub", "gigabytes", "said"), [
    ("", "*version_info*) echo 3.9; exit", "1", "is 3.9, expected Python 3.11 or 3.12"),
    ("", "*ensurepip*) exit 1", "1", "apt install python3.*-venv"),
    ("chmod -x python-stub", "x) ", "1", "expected Python 3.11 or 3.12"),
    ("", "x) ", "900000", "expected about 900000 GB"),
    (KILLED, "x) ", "900000", "not enough disk"),  # a killed installation is not built upon
])  # fmt: skip
def test_set_up_refuses(before: str, stub: str, gigabytes: str, said: str, clone: Path) -> None:
    """In one line."""
    file = clone / "python-stub"
    file.write_text(f'#!/bin/sh\ncase "$*" in {stub};; esac\nexec "{sys.executable}" "$@"\n')
    file.chmod(0o755)
    subprocess.run(before, cwd=clone, shell=True, check=True)
    done = run("make", "install", cwd=clone, PYTHON=str(file), NEED_GB=gigabytes)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert (done.returncode != 0, len(lines), done.stdout) == (True, 1, ""), done.stderr
    assert re.search(said, lines[0])


def test_clean_keeps_the_store(clone: Path) -> None:
    for name in (".venv", "store/report/__pycache__", "gpt1/__pycache__"):
        (clone / name).mkdir(parents=True)
    assert run("make", "clean", cwd=clone).returncode == 0
    left = {str(path.relative_to(clone)) for path in clone.rglob("*") if path.is_dir()}
    assert left == {"infra", "gpt1", "store", "store/report", "store/report/__pycache__"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install .` installs, in a folder of its own, built from the files under git."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in run("git", "ls-files", cwd=ROOT).stdout.splitlines():
        (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "clone" / name, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", ".", "./clone"]
    assert run(*build, cwd=folder).returncode == 0
    run(*pip, "install", "--no-deps", "--target", "site", *folder.glob("*.whl"), cwd=folder)
    return folder / "site"


def gpt1(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The installed command in `folder`, where nothing of the checkout can be seen."""
    more = {"PYTHONPATH": str(installed), "RAY_AUTH_MODE": "disabled"}
    return run(sys.executable, "-m", "pipeline.cli", *words, cwd=folder, **more)


def test_a_wheel_starts_a_project_and_plans_it(installed: Path, tmp_path: Path) -> None:
    assert gpt1(installed, tmp_path, "init", "project").returncode == 0
    project = tmp_path / "project"
    assert (project / "workflow.yaml").read_bytes() == (ROOT / "workflow.yaml").read_bytes()
    assert not (project / "workflow.yaml").is_symlink()
    planned = gpt1(installed, project, "plan", "--profile", "demo", "--json")
    assert len(json.loads(planned.stdout)["cells"]) == 26, planned.stderr
    books = ("data", "get", "books", "--limit", "2", "--mirror", tmp_path.as_uri())
    assert gpt1(installed, tmp_path, *books).stderr.count("the server has no ") == 2
    for words, message in ((("init", "project"), "already exists"), (("plan",), "gpt1 init")):
        done = gpt1(installed, tmp_path, *words)
        assert (done.returncode, message in done.stderr) == (2, True)


@pytest.mark.slow
def test_a_wheel_runs_the_small_workflow(installed: Path, tmp_path: Path) -> None:
    """As far as the export, which needs pre-training and a fine-tuned task."""
    shutil.copy(MINI, tmp_path / "workflow.yaml")
    done = gpt1(installed, tmp_path, "run", "export")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "store" / "export").glob("*/*/hf/model.safetensors"))
