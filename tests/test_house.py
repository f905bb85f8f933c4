"""The house's rules that a program can check: the direction of imports, small files, quick imports, a workflow in place."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages.contract import Stage

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gpt1", "stages", "pipeline")
LONGEST = 400
SMALL = 200
HEAVY = {"torch", "ray", "mlflow", "spacy", "pyarrow", "deepspeed", "transformers", "matplotlib", "pandas", "sklearn", "scipy"}
KINDS = sorted(path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "contract" and not path.stem.startswith("_"))


def lines_of_files() -> dict[str, int]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}


def test_imports_go_downwards_only() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_are_small() -> None:
    lengths = lines_of_files()
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
    larger = [name for name, length in lengths.items() if length > SMALL]
    assert len(larger) <= len(lengths) // 8, f"most files have at most {SMALL} lines; these have more: {larger}"


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
