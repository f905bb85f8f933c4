"""Reading a workflow: stages, matrices, profiles, --set, and what is wrong with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt1.errors import UserError
from pipeline.workflow import read
from tests.pipeline.inline import TOY


def write(folder: Path, text: str) -> Path:
    file = folder / "workflow.yaml"
    file.write_text(text)
    return file


def test_matrix_becomes_cells_in_order() -> None:
    workflow = read(TOY)
    assert list(workflow.cells) == ["numbers", "total[factor=1]", "total[factor=2]"]
    inputs = workflow.cells["total[factor=2]"].inputs
    assert inputs == {"tests.pipeline.toy.numbers": ("numbers",)}


def test_profile_replaces_a_matrix_and_merges_settings() -> None:
    workflow = read(TOY, "tripled")
    assert list(workflow.cells) == ["numbers", "total[factor=3]"]
    assert workflow.cells["numbers"].settings.model_dump()["add"] == 1


def test_further_matrices_add_what_is_missing(tmp_path: Path) -> None:
    further = "factor: [1, 2]\n    also:\n      - factor: [2, 5]"
    file = write(tmp_path, TOY.read_text().replace("factor: [1, 2]", further))
    cells = ["numbers", "total[factor=1]", "total[factor=2]", "total[factor=5]"]
    assert list(read(file).cells) == cells
    assert list(read(file, None, ["total.factor=7"]).cells) == ["numbers", "total"]


def test_axes_are_in_the_order_of_the_matrix_also_in_further_matrices(tmp_path: Path) -> None:
    text = """
stages:
  task_data: {with: {source: data}, matrix: {task: [rte]}}
  finetune:
    needs: [published, task_data]
    matrix: {task: [rte], seed: [1]}
    also: [{seed: [2], task: [rte]}]
  published: {uses: given, with: {checkpoint: published}}
"""
    cells = read(write(tmp_path, text)).node_cells("finetune")
    ids = [f"finetune[task=rte,seed={seed}]" for seed in (1, 2)]
    assert [cell.id for cell in cells] == ids
    assert [list(cell.axes) for cell in cells] == [["task", "seed"]] * 2
    assert cells[1].settings.model_dump()["seed"] == 2


def test_set_changes_one_setting_and_takes_scientific_notation() -> None:
    given = ["numbers.add=5", "total.factor=25e-1", "total.resources.cpus=2"]
    cells = read(TOY, None, given).cells
    assert cells["numbers"].settings.model_dump()["add"] == 5
    assert cells["total"].settings.model_dump()["factor"] == 2.5
    assert cells["total"].resources.cpus == 2


NEEDS, USES, FACTOR = "needs: [numbers]", "uses: tests.pipeline.toy.", "factor: [1, 2]"
ALSO, RESOURCES = f"{FACTOR}\n    also: ", f"{FACTOR}\n    resources: "
STAGES = "  tripled:\n    stages:\n      total"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (NEEDS, "needs: [nubmers]", r"l:\d+: stage 'total' needs unknown stage 'nubmers'; did you"),
        (NEEDS, "needs: [total]", r"cycle in `needs:`: total -> total"),
        (NEEDS, "need: [numbers]", r":7: unknown key 'stages.total.need'; did you mean 'needs'"),
        (NEEDS, f"with: {{facto: 2}}\n    {NEEDS}", r":7: unknown key 'stages.total.with.facto';"),
        (FACTOR, "factor: [1, 1]", r":9: .* a value stands twice"),
        (FACTOR, f"{ALSO}[{{factor: [3, 3]}}]", r":10: stages.total.also.0.factor: a value stands"),
        (FACTOR, f"{ALSO}[{{}}]", r"also.0: axes none, expected those of `matrix:`, factor"),
        (FACTOR, "factor: []", r":9: .*at least one value"),
        (FACTOR, "factor: [1, -2]", r"greater than 0, found -2"),
        (FACTOR, "factr: [1, 2]", r":9: unknown setting 'factr'; did you mean 'factor'"),
        (f"{USES}total", "uses: clena", r":6: unknown stage 'clena'"),
        (f"{USES}total", f"{USES}numbers", r"has no use for 'numbers'"),
        (FACTOR, f"{RESOURCES}{{min_workers: 1}}", r":10: total: min_workers is for trainings"),
        (FACTOR, f"{RESOURCES}{{min_workers: 3, workers: 2}}", r"min_workers 3 is more than"),
        ("name: toy", "nmae: toy", r":1: unknown key 'nmae'; did you mean 'name'"),
        ("name: toy", "name: toy\nname: toy", r":2: key 'name' stands twice"),
        ("stages:\n  numbers", "stages: [\n  numbers", r"not valid YAML"),
        ("add: 1", "add: many", r"stages.numbers.with.add: .*valid integer.*found 'many'"),
        (STAGES, f"{STAGES}s", r"unknown stage 'totals'; did you"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = TOY.read_text()
    assert old in text
    file = write(tmp_path, text.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as caught:
        read(file, "tripled" if "many" in new else None)
    assert "\n" not in str(caught.value)


def test_a_long_cycle_is_spelled_out(tmp_path: Path) -> None:
    pairs = ("ab", "bc", "ca")
    stages = "".join(f"  {a}: {{{USES}total, needs: [{b}]}}\n" for a, b in pairs)
    with pytest.raises(UserError, match="a -> b -> c -> a"):
        read(write(tmp_path, "stages:\n" + stages))


@pytest.mark.parametrize(
    ("file", "profile", "assignments", "message"),
    [
        (TOY, None, ["total"], "expected stage.key=value"),
        (TOY, None, ["ttal.factor=1"], "did you mean 'total'"),
        (TOY, None, ["total.factr=1"], "did you mean 'factor'"),
        (TOY.with_name("none.yaml"), None, [], "no such file"),
        (TOY, "triple", [], "unknown profile 'triple'; did you mean 'tripled'"),
    ],
)
def test_bad_options_are_refused(
    file: Path, profile: str | None, assignments: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(file, profile, assignments)
