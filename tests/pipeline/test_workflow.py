"""Reading a workflow: stages, matrices, profiles, --set, and what is wrong with its line."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import create_model

from pipeline.workflow.expand import Request, _with_axes
from pipeline.workflow.load import read
from pipeline.workflow.schema import StageSpec
from tests.conftest import ROOT, refuses
from tests.e2e.workflow import MINI
from tests.pipeline.inline import TOY
from tests.pipeline.inprocess import refused, said

NEEDS, USES, FACTOR = "needs: [numbers]", "uses: tests.pipeline.toy.", "factor: [1, 2]"
ALSO, RESOURCES = f"{FACTOR}\n    include: ", f"{FACTOR}\n    resources: "
TOTAL = f"  total:\n    {USES}total\n    {NEEDS}"
TRIPLED = "  tripled:\n    stages:\n      total"


def nines(form: str) -> str:
    """Six lines, each nine times the one before."""
    names = [form % ", ".join([f"*x{n - 1}"] * 9) for n in range(1, 7)]
    return "\n".join(["x0: &x0 {k: 1}", *(f"x{n}: &x{n} {a}" for n, a in enumerate(names, 1))])


def write(folder: Path, text: str) -> Path:
    file = folder / "workflow.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(("profile", "factors", "given", "found"), [
    (None, FACTOR, [], [1, 2]), ("tripled", FACTOR, [], [3]),
    (None, f"{ALSO}[{{factor: [2, 5]}}]", [], [1, 2, 5]),
    (None, f"{ALSO}[{{factor: [2, 5]}}]", ["total.factor=7"], [7]),
    (None, FACTOR, ["total.matrix.factor=[4]"], [4]), (None, "factor: 4", [], [4]),
    (None, FACTOR, ["total.factor=[4, 5]"], [4, 5]),
    (None, "{}", ["total.factor=[4, 5]"], [4, 5]), (None, "{}", ["total.factor=4"], []),
])  # fmt: skip
def test_a_matrix(profile: str, factors: str, given: Any, found: Any, tmp_path: Path) -> None:
    workflow = read(write(tmp_path, TOY.read_text().replace(FACTOR, factors)), profile, given)
    totals = [f"total[factor={factor}]" for factor in found] or ["total"]
    assert list(workflow.cells) == ["numbers", *totals]
    assert workflow.cells[totals[-1]].inputs == {"tests.pipeline.toy.numbers": ("numbers",)}
    assert workflow.cells["numbers"].settings.model_dump()["add"] == int(profile == "tripled")


def test_set_changes_one_setting_and_takes_scientific_notation() -> None:
    cells = read(TOY, None, ["total.factor=25e-1", "total.resources.cpus=2"]).cells
    cell = cells["total[factor=2.5]"]
    assert (cell.settings.model_dump()["factor"], cell.resources.cpus) == (2.5, 2)


def test_a_list_for_a_setting_that_is_a_list_is_its_value() -> None:
    found = read(MINI, None, ["ingest.folders=[brontes]", "ingest.source=[a, b]"]).cells["ingest"]
    dumped = found.settings.model_dump(mode="json")
    assert (dumped["folders"], dumped["source"]) == (["brontes"], ["a", "b"])
    spec = StageSpec.model_validate({"with": {"names": ["a", "b"]}})
    given = Request((), [("stages", "x", "with", "names")], (), ())
    kinds = {list: False, Sequence[str]: False, set[str] | None: False, str: True}
    for kind, is_axis in kinds.items():
        stage: Any = SimpleNamespace(settings_model=create_model("S", names=(kind, ())))
        assert ("names" in _with_axes("x", spec, stage, given).matrix) == is_axis


@pytest.mark.parametrize(("old", "new", "message"), [
    (NEEDS, "needs: [nubmers]", r"l:\d+: stage 'total' needs unknown stage 'nubmers'; did you"),
    (TOTAL, f"  b: {{{USES}total, needs: [total]}}\n{TOTAL[:-8]}b]", "b -> total -> b"),
    (NEEDS, "need: [numbers]", r":7: unknown key 'stages.total.need'; did you mean 'needs'"),
    (FACTOR, "factor: [1, 1]", r":9: .* a value appears twice"),
    (FACTOR, "factor: []", r":9: .*at least one value"),
    (FACTOR, f"factor: {[*range(200)]}\n      add: {[*range(99)]}", "found 19,800 combinations"),
    (FACTOR, "factor: [1, -2]", r"greater than 0, found -2"),
    (FACTOR, "factr: [1, 2]", r":9: unknown setting 'factr'; did you mean 'factor'"),
    (f"{USES}total", "uses: clena", r":6: unknown stage 'clena'"),
    (f"{USES}total", f"{USES}numbers", r"does not take 'numbers'"),
    (FACTOR, f"{RESOURCES}{{min_workers: 3, workers: 2}}", r"min_workers 3 is more than"),
    ("name: toy", "name: toy\nname: toy", r":2: key 'name' appears twice"),
    ("stages:\n  numbers", "stages: [\n  numbers", r"not valid YAML"),
    (f"matrix:\n      {FACTOR}", "matrix: {task: ${tasks}}", r":8: not valid YAML.* in quotes$"),
    (FACTOR, '{task: "${tasks}"}', r":9: .*total.matrix.task: \$\{tasks\} must .* a list `tasks:`"),
    ("name: toy", "name: toy\ntasks: rte x", r":2: unknown task 'rte x'; did you mean 'rte'"),
    ("name: toy", "name: toy\ntasks: {rte: 1}", r":2: tasks.0: Input should be a valid string"),
    ("  tripled:", "  tripled:\n    tasks: [1]", r":12: profiles.tripled.tasks.0: .*found 1"),
    ("add: 1", "add: many", r"stages.numbers.with.add: .*valid integer.*found 'many'"),
    (TRIPLED, f"{TRIPLED}s", r"unknown stage 'totals'; did you"),
    ("name: toy", "name: a\0b", "not valid YAML: unacceptable character #x0000: [^\n]*$"),
    ("name: toy", "name: a\x1b[31mb", "not valid YAML: unacceptable character #x001b"),
    ("name: toy", f"name: {'[' * 100_000}", ":1: found more than 50 levels"),
    ("name: toy", f"name: {'[' * 60}{']' * 60}", ":1: found more than 50 levels"),
    ("name: toy", f"name: {'9' * 5000}", r":1: '9{40}' cannot be read .*5000 digits"),
    ("name: toy", "name: 2024-99-99", ":1: '2024-99-99' cannot be read .month must be"),
    ("name: toy", "name: !!int a", ":1: 'a' cannot be read .*; put it in quotes"),
    ("name: toy", nines("[%s]"), ":6: found more than 100,000 values"),
    ("name: toy", nines("{<<: [%s]}"), ":6: found more than 100,000 values"),
    ("name: toy", "name: &a [*a]", ":1: found more than 100,000 values"),
    (f"{USES}total", "uses: os.path", r"stage 'os.path': its STAGE is None; expected an instance"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = TOY.read_text()
    assert old in text
    file, profile = write(tmp_path, text.replace(old, new, 1)), "tripled" if "many" in new else None
    refuses(message, read, file, profile)


@pytest.mark.parametrize(("profile", "given", "message"), [
    (None, ["total"], "expected stage.key=value"), (None, ["ttal.factor=1"], "mean 'total'"),
    (None, ["total.factr=1"], "'factor'"), (None, ["total.with=1"], "total.with: .*dictionary"),
    (None, ["total.factor=[[3]]"], "^--set total.factor: .*valid number.* found .3.$"),
    (None, ["total.factor=x"], "^--set total.factor: .*valid number.* found 'x'$"),
    (None, ["total.factor=[3, 3]"], "^--set total.factor: .*appears twice"),
    (None, ["total.factor=x", "total.factor=x"], "^--set total.factor: .*valid number"),
    (None, ["total.needs=[]"], "^--set total.needs: stage 'total' requires a stage that uses"),
    (None, ["total.matrix={}", "numbers.matrix={add: [x]}"], "^--set numbers.matrix: stages.num"),
    (None, ["tasks=[rte]"], "^--set tasks: found no `tasks:`; add it"),
    ("triple", ["total.factor=5"], "^[^-].*profile 'triple'; .* 'tripled'"),
])  # fmt: skip
def test_bad_options(profile: str | None, given: list[str], message: str) -> None:
    refuses(message, read, TOY, profile, given)


@pytest.mark.parametrize(("given", "message"), [
    (["pretrain.heads=3"], "^--set pretrain.heads: .*width 32 is not divisible by heads 3"),
    (["pretrain.layers=1"], r"^--set pretrain.layers: transfer\[.*has 1 layers"),
    (["pretrain.width=40", "pretrain.heads=3"], "^--set pretrain.heads: .*width 40 is not"),
])  # fmt: skip
def test_the_option_that_makes_another_setting_wrong_is_named(
    given: list[str], message: str
) -> None:
    refuses(message, read, MINI, None, given)


def test_only_what_is_asked_for_must_be_valid() -> None:
    given = ["zero_shot.rows=x", "report.needs=[shard]"]
    every = read(MINI).cells
    assert len(read(MINI, None, ["finetune.seed=1"], ["nothing"]).cells) == len(every) - 2
    for asked in (["finetune"], ["vocabulary", "finetune[task=demo_author,seed=2]"]):
        found = read(MINI, None, given, asked).cells
        assert {one.node for one in every.values()} - {one.node for one in found.values()} == {
            "zero_shot", "export", "report"
        }
        kept = [(one.settings, one.inputs) for name, one in every.items() if name in found]
        assert kept == [(one.settings, one.inputs) for one in found.values()]
    refuses("^--set zero_shot.rows: ", read, MINI, None, given, ["export"])
    refuses("^--set zero_shot.rows: ", read, MINI, None, given, (), "task_data")
    refuses("^--set zero_shot.rows: ", read, MINI, None, given)


def test_commands_check_the_stages_that_they_name(tmp_path: Path) -> None:
    words = ("--set", "zero_shot.rows=x", "--file", MINI, "--store", tmp_path / "store")
    for right in (["plan", "finetune"], ["run", "finetune", "--dry-run"]):
        assert "finetune[task=demo_author,seed=2]  new" in said(*right, *words)
    for wrong in (["plan"], ["run", "--dry-run"], ["run", "--from", "transfer", "--dry-run"]):
        refused("^gpt1: --set zero_shot.rows: ", *wrong, *words)


PRETRAIN = ROOT / "tests" / "stages" / "pretrain_workflow.yaml"
SHAPE = "      {layers: 1"


def test_ranks_that_cannot_share_a_batch_are_refused_by_the_plan() -> None:
    message = "--set pretrain.batch_size: pretrain: workers: 2 ranks cannot share 3 mic"
    refuses(message, read, PRETRAIN, None, ["pretrain.batch_size=12"])


def test_debug_settings_are_one_level_deeper_and_change_nothing_else(tmp_path: Path) -> None:
    written = PRETRAIN.read_text().replace(SHAPE, "      {debug: {log_every: 5}, layers: 1")
    first = read(write(tmp_path, written)).cells["pretrain"].settings
    given = ["pretrain.debug.log_every=5", "pretrain.debug.preflight=false"]
    second = read(PRETRAIN, None, given).cells["pretrain"].settings
    plain = read(PRETRAIN).cells["pretrain"].settings.semantic()
    assert first.semantic() == second.semantic() == {**plain, "log_every": 5}
    assert second.model_dump()["preflight"] is False


@pytest.mark.parametrize(("with_", "given", "message"), [
    ("{log_every: 5, layers: 1", [], r"yaml:18: stages.pretrain.with.log_every: .*`debug:`; write"
     r" `debug: {log_every: 5}`, or --set pretrain.debug.log_every=5$"),
    ("{debug: {lr: 0.1}, layers: 1", [], r"yaml:18: stages.pretrain.with.debug.lr: .*`with:`; write"
     r" `lr: 0.1`, or --set pretrain.lr=0.1$"),
    ("{debug: {log_evry: 5}, layers: 1", [], r"yaml:18: unknown .*debug.log_evry'; .*log_every"),
    ("{debug: {log_every: 0}, layers: 1", [], r"yaml:18: .*with.debug.log_every: .*, found 0$"),
    ("{debug: 5, layers: 1", [], r"yaml:18: stages.pretrain.with.debug: .*, found 5$"),
    ("{layers: 1", ["pretrain.log_every=5"], r"write .*--set pretrain.debug.log_every=5$"),
    ("{layers: 1", ["pretrain.debug.lr=0.1"], r"write .*--set pretrain.lr=0.1$"),
    ("{layers: 1", ["pretrain.log_evry=5"], r"did you mean 'debug.log_every'"),
    ("{layers: 1", ["pretrain.matrix.log_every=[1, 2]"], r"matrix.log_every: .*debug setting"),
    ("{layers: 1", ["clean.debug.ftfy=false"], r"unknown key 'stages.clean.with.debug'"),
])  # fmt: skip
def test_the_wrong_side_of_debug(with_: str, given: Any, message: str, tmp_path: Path) -> None:
    text = PRETRAIN.read_text()
    assert SHAPE in text
    refuses(message, read, write(tmp_path, text.replace(SHAPE, f"      {with_}")), None, given)


RUN = ("run", "--file", "workflow.yaml", "--store", "store")


@pytest.mark.parametrize(("old", "new", "words", "message"), [
    ("warmup_steps:", "warmup_step:", RUN, "yaml:.* did you mean 'warmup_steps'?"),
    ("heads: 2", "heads: 3", RUN, "yaml:.* width 32 is not divisible by heads 3"),
    ("max_length: 32", "max_length: 64", RUN, "yaml:.* max_length 64 is longer than"),
    ("held_out: 0.3", "held_out: 3", RUN, "yaml:.*held_out: "),
    ("name: mini", "tasks: [rte]", RUN, "yaml:.* task 'rte' has no jobs; remove it, or add"),
    ("", "", (*RUN, "--profile", "huge"), "huge"), ("", "", (*RUN, "--code", "never"), "never"),
    ("", "", (*RUN, "--from", "nothing"), "nothing"),
    ("", "", (*RUN, "--set", "ingest.source=nowhere"), "nowhere"),
])  # fmt: skip
def test_one_line(old: str, new: str, words: Any, message: str, tmp_path: Path) -> None:
    """And status 2, before anything starts."""
    text = MINI.read_text()
    assert old in text
    write(tmp_path, text.replace(old, new, 1))
    error = refused(f"^gpt1: .*{message}", *words, cwd=tmp_path)
    assert len(error.splitlines()) == 1, error
