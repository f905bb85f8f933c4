"""The house's rules that a program can check: imports, and names of one meaning."""

import ast
import subprocess
import sys
from collections import defaultdict

import grimp
import pytest

from tests.conftest import ROOT

PACKAGES = ("gpt1", "stages", "pipeline")
HEAVY = {
    "torch", "ray", "mlflow", "spacy", "pyarrow", "deepspeed", "transformers", "matplotlib",
    "pandas", "sklearn", "scipy",
}  # fmt: skip
STAGES = [path.stem for path in (ROOT / "stages").glob("[a-z]*.py") if path.stem != "contract"]

KNOWN_REPEATED = ["Checkpoint", "Reporter"]


def test_imports_make_no_cycle() -> None:
    """In functions and for type checkers, too."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    reach = {module: graph.find_upstream_modules(module) for module in graph.modules}
    cycles = {tuple(sorted({m, *(o for o in reach[m] if m in reach[o])})) for m in reach}
    assert not {cycle for cycle in cycles if len(cycle) > 1}


def test_no_two_modules_define_a_class_of_the_same_name() -> None:
    """What is repeated no more leaves KNOWN_REPEATED."""
    found = defaultdict(set)
    for file in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ClassDef):
                found[node.name].add(module)
    repeated = {name: where for name, where in sorted(found.items()) if len(where) > 1}
    assert list(repeated) == KNOWN_REPEATED, repeated
    assert max(map(len, repeated.values())) == 2, repeated


def run(*words: str) -> str:
    """What a program prints that must end well."""
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_stages_and_command_line_import_nothing_heavy() -> None:
    names = [f"stages.{name}" for name in STAGES]
    names += ["pipeline.cli.main", "pipeline.planning.planner"]
    code = f"import sys, importlib\nfor name in {names}: importlib.import_module(name)\n"
    loaded = run(sys.executable, "-c", f"{code}print(*sys.modules)").split()
    assert HEAVY & set(loaded) == set()


def test_no_place_of_anyones_machine_in_the_files() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    words = ("/wo" + "rk/main", "/wo" + "rk/shared", "pypi" + ".org", "download.pyt" + "orch.org")
    for name in run("git", "ls-files", "-co", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            data = (ROOT / name).read_bytes()
            assert [word for word in words if word.encode() in data] == [], name
