"""The house's rules that a program can check: imports without cycles, names of one meaning, quick imports, a workflow in place."""

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
import yaml

from stages.contract import Stage

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gpt1", "stages", "pipeline")
HEAVY = {"torch", "ray", "mlflow", "spacy", "pyarrow", "deepspeed", "transformers", "matplotlib", "pandas", "sklearn", "scipy"}
KINDS = sorted(path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "contract" and not path.stem.startswith("_"))

KNOWN_CYCLES = {
    ("pipeline.remote_file", "pipeline.remote_store", "pipeline.seen_store", "pipeline.store", "pipeline.travel"),
}
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
    files = [path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {
        ".".join(file.with_suffix("").parts).removesuffix(".__init__"): ast.parse((ROOT / file).read_text(encoding="utf-8"))
        for file in files
    }


def imported(module: str, tree: ast.Module, known: Collection[str]) -> set[str]:
    """Which of the `known` modules a module imports anywhere: in its functions and for type checkers too."""
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
    return {tuple(sorted(other for other in reach[one] if one in reach[other])) for one in imports if one in reach[one]}


def class_names(trees: Mapping[str, ast.Module]) -> dict[str, list[str]]:
    """The modules that define each class."""
    found = defaultdict(set)
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name].add(module)
    return {name: sorted(where) for name, where in found.items()}


def test_imports_make_no_cycle() -> None:
    """What is no cycle any more leaves KNOWN_CYCLES."""
    trees = modules()
    assert cycles({module: imported(module, tree, trees) for module, tree in trees.items()}) == KNOWN_CYCLES


def test_no_two_modules_define_a_class_of_the_same_name() -> None:
    """What is repeated no more leaves KNOWN_REPEATED."""
    assert {name: where for name, where in class_names(modules()).items() if len(where) > 1} == KNOWN_REPEATED


def test_an_import_counts_wherever_it_is() -> None:
    tree = ast.parse(
        "import p.a as a\n"
        "from p import b, name\n"
        "from p.c import name as other\n"
        "import os\n"
        "if TYPE_CHECKING:\n    from p.d import D\n"
        "def f():\n    from p import e\n"
        "from . import f\n"
        "from .g import G\n"
    )
    known = {"p", *(f"p.{letter}" for letter in "abcdefgh")}
    assert imported("p", tree, known) == imported("p.h", tree, known) == known - {"p.h"}


def test_cycles_are_found_whatever_their_length() -> None:
    imports = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"f"}, "g": {"a"}}
    assert cycles(imports) == {("a", "b", "c"), ("d", "e"), ("f",)}


def test_imports_go_downwards_only() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_is_whole(kind: str) -> None:
    stage = importlib.import_module(f"stages.{kind}").STAGE
    assert isinstance(stage, Stage)
    for name, field in stage.settings_model.model_fields.items():
        assert field.description, f"{kind}.{name} has no description"
        assert field.description.endswith("."), f"{kind}.{name}: its description is no sentence"


def test_stages_and_command_line_import_nothing_heavy() -> None:
    modules = [f"stages.{kind}" for kind in KINDS] + ["pipeline.cli", "pipeline.plan"]
    code = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(done.stdout.split()) == set()


def test_the_workflow_is_in_place() -> None:
    found = yaml.safe_load((ROOT / "workflow.yaml").read_text(encoding="utf-8"))
    assert {"demo", "one-gpu", "paper"} <= set(found["profiles"])
    used = {spec.get("uses", name) for name, spec in found["stages"].items()}
    assert used <= set(KINDS)


def test_no_place_of_anyones_machine_in_the_files() -> None:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git repository")
    words = ("/wo" + "rk/main", "/wo" + "rk/shared", "pypi" + ".org", "download.pyt" + "orch.org")
    guilty = [
        f"{name}: {word}"
        for name in listed.stdout.split("\n")
        if name and (ROOT / name).is_file()
        for word in words
        if word.encode() in (ROOT / name).read_bytes()
    ]
    assert guilty == []
