"""The house's rules that a program can check: imports, and names of one meaning."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest

from stages.contract import Stage
from tests.conftest import ROOT

PACKAGES = ("gpt1", "stages", "pipeline")
HEAVY = {
    "torch", "ray", "mlflow", "spacy", "pyarrow", "deepspeed", "transformers", "matplotlib",
    "pandas", "sklearn", "scipy",
}  # fmt: skip
STAGES = [path.stem for path in (ROOT / "stages").glob("[a-z]*.py") if path.stem != "contract"]

KNOWN_CYCLES = {
    ("pipeline.remote_file", "pipeline.remote_store", "pipeline.seen_store", "pipeline.store",
     "pipeline.travel"),
}  # fmt: skip
KNOWN_REPEATED = {
    "Checkpoint": ["gpt1.train.checkpoint_record", "gpt1.weights.checkpoint"],
    "Encoded": ["gpt1.tasks.encoded", "gpt1.text.encoder"],
    "Entry": ["pipeline.objects", "pipeline.plan"],
    "Form": ["gpt1.corpus.sources.forms", "gpt1.tasks.encoded"],
    "Found": ["pipeline.checkpoints", "pipeline.commands.trace"],
    "Hub": ["gpt1.tasks.table", "pipeline.events"],
    "Outcome": ["gpt1.train.engine", "pipeline.runner"],
    "Part": ["gpt1.train.describe", "stages.contract"],
    "Passage": ["gpt1.data.trace", "gpt1.tasks.passages"],
    "PrintReporter": ["gpt1.train.reporter", "pipeline.events"],
    "Reporter": ["gpt1.train.reporter", "stages.contract"],
    "Shard": ["gpt1.data.shard_file", "stages.shard"],
    "Size": ["gpt1.corpus.size", "gpt1.tasks.demo_settings"],
    "Source": ["gpt1.report.sources", "gpt1.tasks.table"],
    "Split": ["gpt1.tasks.readers", "stages.split"],
}


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax tree of every module of the three storeys."""
    found = {}
    for file in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def imported(module: str, tree: ast.Module, known: Collection[str]) -> set[str]:
    """Which `known` modules a module imports anywhere: in functions and for type checkers too."""
    is_package = any(name.startswith(f"{module}.") for name in known)
    package = module if is_package else module.rpartition(".")[0]
    found = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{alias.name}" for alias in node.names]
            found.update(name if name in known else base for name in names)
    return found & set(known)


def cycles(imports: Mapping[str, Collection[str]]) -> set[tuple[str, ...]]:
    """The groups of modules of which each imports itself by way of all the others."""

    def reached(start: str) -> set[str]:
        found, waiting = set[str](), [start]
        while waiting:
            new = set(imports[waiting.pop()]) - found
            found |= new
            waiting += new
        return found

    reach = {module: reached(module) for module in imports}
    cyclic = [module for module in imports if module in reach[module]]
    return {tuple(sorted(other for other in reach[one] if one in reach[other])) for one in cyclic}


def test_imports_make_no_cycle() -> None:
    """What is no cycle any more leaves KNOWN_CYCLES."""
    trees = modules()
    imports = {module: imported(module, tree, trees) for module, tree in trees.items()}
    assert cycles(imports) == KNOWN_CYCLES


def test_no_two_modules_define_a_class_of_the_same_name() -> None:
    """What is repeated no more leaves KNOWN_REPEATED."""
    found = defaultdict(set)
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name].add(module)
    assert {
        name: sorted(where) for name, where in found.items() if len(where) > 1
    } == KNOWN_REPEATED


def test_any_import_counts_and_cycles_are_found_whatever_their_length() -> None:
    tree = ast.parse(
        "import p.a as a\nfrom p import b, name\nfrom p.c import name as other\nimport os\n"
        "if TYPE_CHECKING:\n    from p.d import D\n"
        "def f():\n    from p import e\nfrom . import f\nfrom .g import G\n"
    )
    known = {"p", *(f"p.{letter}" for letter in "abcdefgh")}
    assert imported("p", tree, known) == imported("p.h", tree, known) == known - {"p.h"}
    imports = {"a": "b", "b": "cd", "c": "a", "d": "e", "e": "d", "f": "f", "g": "a"}
    assert cycles(imports) == {("a", "b", "c"), ("d", "e"), ("f",)}


def run(*words: str) -> str:
    """What a program prints that must end well."""
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_imports_go_downwards_only() -> None:
    run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_describes_its_settings(name: str) -> None:
    stage = importlib.import_module(f"stages.{name}").STAGE
    assert isinstance(stage, Stage)
    for setting, field in stage.settings_model.model_fields.items():
        assert (field.description or "").endswith("."), (
            f"{name}.{setting}: no sentence describes it"
        )


def test_stages_and_command_line_import_nothing_heavy() -> None:
    names = [f"stages.{name}" for name in STAGES] + ["pipeline.cli", "pipeline.plan"]
    code = f"import sys, importlib\nfor name in {names}: importlib.import_module(name)\n"
    assert (
        HEAVY & set(run(sys.executable, "-c", f"{code}print(*sys.modules)").split()) == set()
    )


def test_no_place_of_anyones_machine_in_the_files() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    words = ("/wo" + "rk/main", "/wo" + "rk/shared", "pypi" + ".org", "download.pyt" + "orch.org")
    for name in run("git", "ls-files", "-co", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            data = (ROOT / name).read_bytes()
            assert [word for word in words if word.encode() in data] == [], name
