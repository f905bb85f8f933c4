"""The files a newcomer starts from: the lock fits the project and the environment, and set-up refuses in one clear line."""

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
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
MINI = ROOT / "tests" / "e2e" / "mini.yaml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked() -> dict[str, Version]:
    """Name -> version of every line of the lock."""
    lines = [line.strip() for line in (ROOT / "requirements.lock").read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(len(pin.specifier) == 1 and str(pin.specifier).startswith("==") for pin in pins)
    found = {canonicalize_name(pin.name): Version(str(pin.specifier)[2:]) for pin in pins}
    assert len(found) == len(pins), "a package is pinned twice"
    return found


def direct() -> list[Requirement]:
    named = [*PROJECT["dependencies"], *(name for extra in PROJECT["optional-dependencies"].values() for name in extra)]
    return [Requirement(line) for line in named]


def needed(requirements: list[Requirement]) -> set[str]:
    """All packages that `requirements` bring here, by the metadata of what is installed."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(requirement, frozenset[str]()) for requirement in requirements]
    while waiting:
        requirement, extras = waiting.pop()
        if requirement.marker and not any(
            requirement.marker.evaluate({**default_environment(), "extra": extra}) for extra in (*extras, "")
        ):
            continue
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            brought = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:
            continue
        waiting += [(Requirement(line), key[1]) for line in brought]
    return {name for name, _ in seen}


def imports(*folders: str) -> set[str]:
    """The top-level modules that the files of these folders import."""
    trees = [ast.parse(path.read_bytes()) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in names}


def test_every_dependency_is_imported_or_says_what_it_is_for() -> None:
    modules: dict[str, set[str]] = {}
    for module, packages in metadata.packages_distributions().items():
        for package in packages:
            modules.setdefault(canonicalize_name(package), set()).add(module)
    text = (ROOT / "pyproject.toml").read_text()
    explained = {Requirement(line).name for line in re.findall(r'^  "(.+)",  # \S.*$', text, re.MULTILINE)}
    dev = PROJECT["optional-dependencies"]["dev"]
    library, everything = imports("gpt1", "stages", "pipeline"), imports("gpt1", "stages", "pipeline", "tests", "benchmarks")
    for lines, imported in ((PROJECT["dependencies"], library), (dev, everything)):
        names = {Requirement(line).name for line in lines}
        unused = {name for name in names if not modules.get(canonicalize_name(name), {name}) & imported}
        assert unused - explained == set(), "nothing imports these; take them out, or say in a comment what they are for"


def test_the_library_needs_neither_ray_nor_mlflow() -> None:
    """Every module of gpt1 can be imported where the two are missing; the tokenizer of exports is transformers' to import."""
    code = (
        "import importlib, pkgutil, sys\n"
        "sys.modules |= dict.fromkeys(('ray', 'mlflow'))\n"
        "import gpt1\n"
        "names = [found.name for found in pkgutil.walk_packages(gpt1.__path__, 'gpt1.')]\n"
        "for name in names:\n"
        "    if name != 'gpt1.weights.tokenization_gpt1': importlib.import_module(name)\n"
        "print(*names)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert {"gpt1.text.encoder", "gpt1.data.shards", "gpt1.weights.hf", "gpt1.train.pretrain"} <= set(done.stdout.split())


def test_every_package_that_is_needed_is_pinned() -> None:
    # torch brings its CUDA libraries in that build alone, for which the lock has a part of its own.
    assert needed(direct()) - set(locked()) == set()


def test_pins_satisfy_what_the_project_asks_for() -> None:
    pins = locked()
    wrong = [str(line) for line in direct() if not line.specifier.contains(pins[canonicalize_name(line.name)])]
    assert wrong == []


def test_the_environment_is_the_locks() -> None:
    """Here, where the tests run, the versions are those of the lock; local tags such as +cpu are not compared."""
    # Not all of sys.path: whoever imports setuptools, as torch.compile does, puts the packages inside setuptools there.
    found = metadata.distributions(path=site.getsitepackages())
    installed = {canonicalize_name(item.metadata["Name"]): Version(item.version) for item in found}
    differing = {
        name: f"{installed[name]}, locked {version}"
        for name, version in locked().items()
        if name in installed and Version(installed[name].public) != version
    }
    assert differing == {}


def test_torch_is_pinned_without_a_build() -> None:
    assert locked()["torch"].local is None
    assert any(line.name == "torch" and str(line.specifier) == f"=={locked()['torch']}" for line in direct())


def test_console_command_is_installed() -> None:
    [entry] = [entry for entry in metadata.entry_points(group="console_scripts") if entry.name == "gpt1"]
    assert entry.value == PROJECT["scripts"]["gpt1"]
    assert callable(entry.load())


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that set-up needs, without an environment."""
    (tmp_path / "infra").mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "infra/install.sh"):
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def install(clone: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`make install` there."""
    # Under `make test` the variables of the outer make would change what the inner one prints.
    left_out = ("PYTHON", "TORCH_INDEX", "NEED_GB", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return subprocess.run(
        ["make", "install"], cwd=clone, env={**kept, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def stub(clone: Path, body: str) -> str:
    """A program that passes for an interpreter."""
    path = clone / "python-stub"
    path.write_text(f'#!/bin/sh\n{body}\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return str(path)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line it said; make adds its own."""
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1, done.stderr
    assert done.stdout == ""
    return lines[0]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
class TestRefusals:
    def test_wrong_python(self, clone: Path) -> None:
        said = refusal(install(clone, PYTHON=stub(clone, 'case "$*" in *version_info*) echo 3.9; exit;; esac')))
        assert "is 3.9, expected Python 3.11 or 3.12" in said

    def test_no_such_python(self, clone: Path) -> None:
        assert "expected Python 3.11 or 3.12" in refusal(install(clone, PYTHON="no-such-python"))

    def test_no_venv_module(self, clone: Path) -> None:
        said = refusal(install(clone, PYTHON=stub(clone, 'case "$*" in *ensurepip*) exit 1;; esac')))
        assert f"apt install python{sys.version_info.major}.{sys.version_info.minor}-venv" in said

    def test_no_room(self, clone: Path) -> None:
        said = refusal(install(clone, PYTHON=sys.executable, NEED_GB="900000"))
        assert "needs about 900000 GB" in said
        assert not (clone / ".venv").exists()

    def test_a_killed_installation_is_not_built_upon(self, clone: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
        (clone / ".venv" / ".installing").touch()
        assert "no room" in refusal(install(clone, PYTHON=sys.executable, NEED_GB="900000"))  # so it wants to begin anew


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_clean_keeps_the_store(clone: Path) -> None:
    for name in (".venv", "store/report/__pycache__", "gpt1/__pycache__"):
        (clone / name).mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=clone, check=True, capture_output=True, timeout=60)
    assert (clone / "store/report/__pycache__").is_dir()
    assert not (clone / ".venv").exists()
    assert not (clone / "gpt1/__pycache__").exists()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install .` installs of this project, in a folder of its own, built from the files under git."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, files):
        (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "clone" / name, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "clone"], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def gpt1(installed: Path, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """The installed command in `folder`, where nothing of the checkout can be seen."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "pipeline.cli", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=580, check=False)


def test_a_wheel_starts_a_project_and_plans_it(installed: Path, tmp_path: Path) -> None:
    done = gpt1(installed, tmp_path, "init", "project")
    assert done.returncode == 0, done.stderr
    project = tmp_path / "project"
    assert (project / "workflow.yaml").read_bytes() == (ROOT / "workflow.yaml").read_bytes()
    assert not (project / "workflow.yaml").is_symlink()
    planned = gpt1(installed, project, "plan", "--profile", "demo", "--json")
    assert planned.returncode == 0, planned.stderr
    assert len(json.loads(planned.stdout)["cells"]) == 26
    again = gpt1(installed, tmp_path, "init", "project")
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    nowhere = gpt1(installed, tmp_path, "plan")
    assert (nowhere.returncode, "gpt1 init" in nowhere.stderr) == (2, True)


@pytest.mark.slow
def test_a_wheel_runs_the_small_workflow(installed: Path, tmp_path: Path) -> None:
    shutil.copy(MINI, tmp_path / "workflow.yaml")
    done = gpt1(installed, tmp_path, "run", "export")
    assert done.returncode == 0, done.stdout + done.stderr
    [record] = (tmp_path / "store" / "pretrain").glob("*/record.json")
    assert json.loads(record.read_text())["summary"]["steps"] == 120
    assert list((tmp_path / "store" / "export").glob("*/*/hf/model.safetensors"))
