from __future__ import annotations

from pathlib import Path

import pytest

from gpt1.errors import UserError
from pipeline.workflow import read

TOY = Path(__file__).parent / "toy" / "workflow.yaml"


def write(folder: Path, text: str) -> Path:
    file = folder / "workflow.yaml"
    file.write_text(text)
    return file


def test_matrix_becomes_cells_in_order() -> None:
    workflow = read(TOY)
    assert list(workflow.cells) == ["numbers", "total[factor=1]", "total[factor=2]"]
    assert workflow.cells["total[factor=2]"].inputs == {"tests.pipeline.toy.numbers": ("numbers",)}


def test_profile_replaces_a_matrix_and_merges_settings() -> None:
    workflow = read(TOY, "tripled")
    assert list(workflow.cells) == ["numbers", "total[factor=3]"]
    assert workflow.cells["numbers"].settings.model_dump()["add"] == 1


def test_further_matrices_add_what_is_missing(tmp_path: Path) -> None:
    text = TOY.read_text().replace("factor: [1, 2]", "factor: [1, 2]\n    also:\n      - factor: [2, 5]")
    cells = ["numbers", "total[factor=1]", "total[factor=2]", "total[factor=5]"]
    assert list(read(write(tmp_path, text)).cells) == cells
    assert list(read(write(tmp_path, text), None, ["total.factor=7"]).cells) == ["numbers", "total"]


def test_axes_are_in_the_order_of_the_matrix_also_in_further_matrices(tmp_path: Path) -> None:
    stages = "stages:\n  task_data: {with: {source: data}, matrix: {task: [rte]}}\n  finetune:\n    needs: [published, task_data]\n"
    published = "  published: {uses: given, with: {checkpoint: published}}\n"
    matrices = "    matrix: {task: [rte], seed: [1]}\n    also: [{seed: [2], task: [rte]}]\n"
    cells = read(write(tmp_path, stages + matrices + published)).node_cells("finetune")
    assert [cell.id for cell in cells] == ["finetune[task=rte,seed=1]", "finetune[task=rte,seed=2]"]
    assert [list(cell.axes) for cell in cells] == [["task", "seed"]] * 2
    assert cells[1].settings.model_dump()["seed"] == 2


def test_set_changes_one_setting_and_takes_scientific_notation() -> None:
    workflow = read(TOY, None, ["numbers.add=5", "total.factor=25e-1", "total.resources.cpus=2"])
    assert workflow.cells["numbers"].settings.model_dump()["add"] == 5
    assert workflow.cells["total"].settings.model_dump()["factor"] == 2.5
    assert workflow.cells["total"].resources.cpus == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("needs: [numbers]", "needs: [nubmers]"), r"workflow.yaml:\d+: stage 'total' needs unknown stage 'nubmers'; did you"),
        (("needs: [numbers]", "needs: [total]"), r"cycle in `needs:`: total -> total"),
        (("needs: [numbers]", "need: [numbers]"), r":7: unknown key 'stages.total.need'; did you mean 'needs'"),
        (("needs: [numbers]", "with: {facto: 2}\n    needs: [numbers]"), r":7: unknown key 'stages.total.with.facto'; did you"),
        (("factor: [1, 2]", "factor: [1, 1]"), r":9: .* a value stands twice"),
        (("factor: [1, 2]", "factor: [1, 2]\n    also: [{factor: [3, 3]}]"), r":10: stages.total.also.0.factor: a value stands"),
        (("factor: [1, 2]", "factor: [1, 2]\n    also: [{}]"), r"also.0: axes none, expected those of `matrix:`, factor"),
        (("factor: [1, 2]", "factor: []"), r":9: .*at least one value"),
        (("factor: [1, 2]", "factor: [1, -2]"), r"greater than 0, found -2"),
        (("factor: [1, 2]", "factr: [1, 2]"), r":9: unknown setting 'factr'; did you mean 'factor'"),
        (("uses: tests.pipeline.toy.total", "uses: clena"), r":6: unknown stage 'clena'"),
        (("uses: tests.pipeline.toy.total", "uses: tests.pipeline.toy.numbers"), r"has no use for 'numbers'"),
        (("factor: [1, 2]", "factor: [1, 2]\n    resources: {min_workers: 1}"), r":10: total: min_workers is for trainings"),
        (("factor: [1, 2]", "factor: [1, 2]\n    resources: {min_workers: 3, workers: 2}"), r"min_workers 3 is more than"),
        (("name: toy", "nmae: toy"), r":1: unknown key 'nmae'; did you mean 'name'"),
        (("name: toy", "name: toy\nname: toy"), r":2: key 'name' stands twice"),
        (("stages:\n  numbers", "stages: [\n  numbers"), r"not valid YAML"),
        (("add: 1", "add: many"), r"stages.numbers.with.add: .*valid integer.*found 'many'"),
        (("  tripled:\n    stages:\n      total", "  tripled:\n    stages:\n      totals"), r"unknown stage 'totals'; did you"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    text = TOY.read_text()
    assert change[0] in text
    file = write(tmp_path, text.replace(*change, 1))
    with pytest.raises(UserError, match=message) as caught:
        read(file, "tripled" if "many" in change[1] else None)
    assert "\n" not in str(caught.value)


def test_a_long_cycle_is_spelled_out(tmp_path: Path) -> None:
    kind = "tests.pipeline.toy.total"
    stages = "".join(f"  {a}: {{uses: {kind}, needs: [{b}]}}\n" for a, b in ("ab", "bc", "ca"))
    with pytest.raises(UserError, match="a -> b -> c -> a"):
        read(write(tmp_path, "stages:\n" + stages))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [("total", "expected stage.key=value"), ("ttal.factor=1", "did you mean 'total'"), ("total.factr=1", "did you mean 'factor'")],
)
def test_bad_assignments_are_refused(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(TOY, None, [assignment])


def test_missing_file_and_profile(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="unknown profile 'triple'; did you mean 'tripled'"):
        read(TOY, "triple")
