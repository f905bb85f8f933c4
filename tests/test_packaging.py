"""What a newcomer starts from: the lock fits project and environment; set-up refuses clearly."""

from __future__ import annotations

import ast
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

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

MINI = ROOT / "tests" / "e2e" / "mini.yaml"
TEXT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(TEXT)["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [
    Requirement(line) for line in (*PROJECT["dependencies"], *EXTRAS["server"], *EXTRAS["dev"])
]
LOCK = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
PINS = {canonicalize_name(name): version for name, version in LOCK}


def needed() -> set[str]:
    """All packages that DIRECT bring here, by the metadata of what is installed."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(requirement, frozenset[str]()) for requirement in DIRECT]
    while waiting:
        requirement, extras = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        places = [{**default_environment(), "extra": extra} for extra in (*extras, "")]
        applies = requirement.marker is None or any(map(requirement.marker.evaluate, places))
        if key in seen or not applies:
            continue
        seen.add(key)
        try:
            brought = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:
            continue
        waiting += [(Requirement(line), key[1]) for line in brought]
    return {name for name, _ in seen}


def test_the_lock_pins_all_that_is_needed_as_it_is_installed_here() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.strip()]
    assert len(PINS) == len([line for line in lines if not line.startswith("#")]), (
        "a line is no pin"
    )
    # torch brings its CUDA libraries in that build alone, for which the lock has a part of its own.
    assert needed() - set(PINS) == set()
    pinned = [(line, PINS[canonicalize_name(line.name)]) for line in DIRECT]
    assert [str(line) for line, version in pinned if not line.specifier.contains(version)] == []
    # Not all of sys.path: torch.compile puts the packages inside setuptools there.
    found = metadata.distributions(path=site.getsitepackages())
    here = {
        canonicalize_name(item.metadata["Name"]): item.version.partition("+")[0] for item in found
    }
    assert {name: here[name] for name in PINS.keys() & here if here[name] != PINS[name]} == {}


def test_every_dependency_is_imported_or_says_what_it_is_for() -> None:
    modules: dict[str, set[str]] = {}
    for module, packages in metadata.packages_distributions().items():
        for package in packages:
            modules.setdefault(canonicalize_name(package), set()).add(module)
    explained = {
        Requirement(x).name for x in re.findall(r'^  "(.+)",  # \S.*$', TEXT, re.MULTILINE)
    }
    library = imports("gpt1", "stages", "pipeline")
    everything = library | imports("tests", "benchmarks")
    for lines, imported in ((PROJECT["dependencies"], library), (EXTRAS["dev"], everything)):
        names = {Requirement(line).name for line in lines} - explained
        assert {n for n in names if not modules.get(canonicalize_name(n), {n}) & imported} == set()


def imports(*folders: str) -> set[str]:
    """The top-level modules that the files of these folders import."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_bytes()))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def test_the_library_needs_neither_ray_nor_mlflow() -> None:
    """Every module of gpt1 but the tokenizer of exports, which is transformers' to import."""
    code = (
        "import importlib, pkgutil, sys\n"
        "sys.modules |= dict.fromkeys(('ray', 'mlflow'))\n"
        "import gpt1\n"
        "names = {found.name for found in pkgutil.walk_packages(gpt1.__path__, 'gpt1.')}\n"
        "for name in names - {'gpt1.weights.tokenization_gpt1'}: importlib.import_module(name)\n"
        "print(len(names))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that set-up needs, without an environment."""
    (tmp_path / "infra").mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "infra/install.sh"):
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def make(clone: Path, target: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Under `make test` the variables of the outer make would change what the inner one prints."""
    kept = {
        name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"
    }
    return subprocess.run(
        ["make", target], cwd=clone, env={**kept, **environment}, capture_output=True, text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("python", "gigabytes", "said"),
    [
        (
            'case "$*" in *version_info*) echo 3.9; exit;; esac', "",
            "is 3.9, expected Python 3.11 or 3.12",
        ),
        ('case "$*" in *ensurepip*) exit 1;; esac', "", "apt install python3.*-venv"),
        ("no-such-python", "", "expected Python 3.11 or 3.12"),
        ("", "900000", "needs about 900000 GB"),
        ("killed", "900000", "no room"),  # what a killed installation left is not built upon
    ],
)
def test_set_up_refuses_in_one_line(python: str, gigabytes: str, said: str, clone: Path) -> None:
    stub = clone / "python-stub"
    stub.write_text(
        f'#!/bin/sh\n{python if "case" in python else ""}\nexec "{sys.executable}" "$@"\n'
    )
    stub.chmod(0o755)
    if python == "killed":
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
        (clone / ".venv" / ".installing").touch()
    name = python if python == "no-such-python" else str(stub)
    done = make(clone, "install", PYTHON=name, **({"NEED_GB": gigabytes} if gigabytes else {}))
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert (done.returncode != 0, len(lines), done.stdout) == (True, 1, ""), done.stderr
    assert re.search(said, lines[0])


def test_clean_keeps_the_store(clone: Path) -> None:
    for name in (".venv", "store/report/__pycache__", "gpt1/__pycache__"):
        (clone / name).mkdir(parents=True)
    assert make(clone, "clean").returncode == 0
    left = {str(path.relative_to(clone)) for path in clone.rglob("*") if path.is_dir()}
    assert left == {"infra", "gpt1", "store", "store/report", "store/report/__pycache__"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install .` installs, in a folder of its own, built from the files under git."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "clone" / name, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "clone"]
    subprocess.run(wheel, check=True)
    target = ["install", "--no-deps", "--target", folder / "site", *folder.glob("*.whl")]
    subprocess.run([*pip, *target], check=True)
    return folder / "site"


def gpt1(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The installed command in `folder`, where nothing of the checkout can be seen."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "pipeline.cli", *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_a_wheel_starts_a_project_and_plans_it(installed: Path, tmp_path: Path) -> None:
    assert gpt1(installed, tmp_path, "init", "project").returncode == 0
    project = tmp_path / "project"
    assert (project / "workflow.yaml").read_bytes() == (ROOT / "workflow.yaml").read_bytes()
    assert not (project / "workflow.yaml").is_symlink()
    planned = gpt1(installed, project, "plan", "--profile", "demo", "--json")
    assert len(json.loads(planned.stdout)["cells"]) == 26, planned.stderr
    again, nowhere = gpt1(installed, tmp_path, "init", "project"), gpt1(installed, tmp_path, "plan")
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    assert (nowhere.returncode, "gpt1 init" in nowhere.stderr) == (2, True)


@pytest.mark.slow
def test_a_wheel_runs_the_small_workflow(installed: Path, tmp_path: Path) -> None:
    """As far as the export, which needs pre-training and a fine-tuned task."""
    shutil.copy(MINI, tmp_path / "workflow.yaml")
    done = gpt1(installed, tmp_path, "run", "export", "--set", "pretrain.steps=40")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "store" / "export").glob("*/*/hf/model.safetensors"))
