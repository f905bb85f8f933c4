"""The JSON Schema of workflow.yaml: what it takes and refuses; and where editors find it."""

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator as Validator

from gpt1.terminal import to_json
from pipeline.workflow.json_schema import json_schema
from pipeline.workflow.yaml_source import load
from tests.conftest import ROOT
from tests.e2e.workflow import MINI
from tests.pipeline.inline import TOY
from tests.pipeline.inprocess import said

FILE = ROOT / "workflow.schema.json"
STEPS, WARMUP, DEMO = "max_steps: 120", "warmup_steps: 10", "name: mini\nprofiles: {small: "


@pytest.fixture(scope="module")
def validator() -> Any:
    Validator.check_schema(json_schema())
    return Validator(json_schema())


@pytest.mark.parametrize("file", [ROOT / "workflow.yaml", MINI, TOY], ids=lambda file: file.name)
def test_it_takes_the_projects_workflows(file: Path, validator: Any) -> None:
    validator.validate(load(file).data)


@pytest.mark.parametrize(("old", "new", "wrong"), [
    ("max_steps", "max_step", "max_step"), (STEPS, "max_steps: many", "many"),
    (STEPS, "log_every: 1", "log_every"), (STEPS, "debug: {log_every: 1}", ""),
    ("needs: [ingest]", "need: [ingest]", "need"), ("needs: [ingest]", "needs: ingest", ""),
    ("{workers: 1}", "{cpu: 1}", "cpu"), ("{workers: 1}", "{workers: 1}\n    timeout: 30m", ""),
    ("uses: finetune", "uses: finetun", "finetun"), ("  audit:", "  audits:", "uses"),
    ("num_layers_transferred:", "num_layers:", "num_layers"), (WARMUP, "", ""),
    ("name: mini", "name: mini\ntasks: rte", ""), ("name: mini", "name: mini\ntasks: []", "[]"),
    ("name: mini", "names: mini", "names"), ("{workers: 1}", "{}\n    wait: 3 weeks", "weeks"),
    ("name: mini", f"{DEMO}{{stages: {{clean: {{timeout: null}}, audit: null}}}}}}", ""),
    ("name: mini", f"{DEMO}{{stages: {{clean: {{with: {{fx: 1}}}}}}}}}}", "fx"),
])  # fmt: skip
def test_it_refuses_what_the_workflow_does(
    old: str, new: str, wrong: str, validator: Any, tmp_path: Path
) -> None:
    """`wrong` is in the message; empty where the change is none's mistake."""
    text = MINI.read_text()
    assert old in text
    (tmp_path / "workflow.yaml").write_text(text.replace(old, new, 1))
    data = load(tmp_path / "workflow.yaml").data
    problems = [error.message for error in validator.iter_errors(data)]
    assert bool(problems) == bool(wrong), problems
    assert not wrong or any(wrong in problem for problem in problems), problems


def test_editors_find_what_the_command_prints(tmp_path: Path) -> None:
    printed = said("schema")
    assert printed == FILE.read_text() == f"{to_json(json_schema(), indent=1)}\n"
    said("init", tmp_path)
    assert (tmp_path / FILE.name).read_text() == printed
    first = (tmp_path / "workflow.yaml").read_text().partition("\n")[0]
    assert first == f"# yaml-language-server: $schema={FILE.name}"
