"""The user's modules: found beside the workflow, shadowing nothing, and hashed with the stage that imports them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from gpt1.errors import UserError
from gpt1.tasks.table import definition, recorded_task, task_named
from pipeline.cli import app
from pipeline.commands.options import RunOptions
from pipeline.imports import closure, imported_by, module_file
from pipeline.kinds import stage_kinds
from pipeline.provenance import _hash, code_hash
from pipeline.submit import SENT_USER_CODE, Order, _pack
from pipeline.user_code import NONE, ROOT, VARIABLE, UserCode, install
from pipeline.workflow import read

STAGE = """
{imports}
from stages.contract import Stage

class Mine(Stage):
    def run(self, settings, context):
        {late}

STAGE = Mine()
"""
TASK = """
from gpt1.tasks.table import Column, Source, Task
TASK = Task("weather", "Weather or not", "classification", ("no", "yes"), ("accuracy",), "tsv", "weather",
            {"train": (Source("train.tsv"),), "dev": (Source("dev.tsv"),)}, Column(("sentence",), "label"))
"""


@pytest.fixture(autouse=True)
def no_user_code() -> Iterator[None]:
    """A process reads one workflow; this one reads many."""
    yield
    install(NONE)


def stage(*imports: str, late: str = "pass") -> str:
    return STAGE.format(imports="\n".join(imports), late=late)


def write(folder: Path, files: dict[str, str], **uses: str) -> Path:
    """The files, and a workflow whose stages are `uses`."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    stages = {name: {"uses": module} for name, module in uses.items()}
    (folder / "workflow.yaml").write_text(yaml.safe_dump({"name": "mine", "stages": stages}))
    return folder / "workflow.yaml"


HELPED = {
    "my/one.py": stage("import my.helper", "import counting", "from .words import rule"),
    "my/two.py": stage(late="import beside"),
    "my/helper.py": "HELPER = 1\n",
    "my/counting.py": "COUNTING = 1\n",
    "my/words/__init__.py": "",
    "my/words/rule.py": "RULE = 1\n",
    "beside.py": "BESIDE = 1\n",
}


def test_a_stage_imports_its_helpers_whatever_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "project", HELPED, one="my.one", two="my.two")
    monkeypatch.chdir(tmp_path)
    workflow = read(file)
    assert dict(workflow.user_code.places) == {"my": "", "counting": "my", "beside": ""}
    assert workflow.user_code.entries == ["beside.py", "my"]
    assert importlib.import_module("beside").BESIDE == 1
    assert Path(str(importlib.import_module("counting").__file__)) == tmp_path / "project" / "my" / "counting.py"
    assert not {str(tmp_path), str(tmp_path / "project"), ""} & set(sys.path)


def test_folders_beside_the_workflow_answer_for_no_package(tmp_path: Path) -> None:
    files = {"polars/data.py": "", "yaml/__init__.py": "raise RuntimeError", "my/one.py": stage("import yaml")}
    read(write(tmp_path, files, one="my.one"))
    assert importlib.util.find_spec("polars") is None
    assert importlib.import_module("my.one").yaml is yaml


@pytest.mark.parametrize(
    ("files", "uses", "said"),
    [
        ({"yaml/words.py": stage()}, "yaml.words", "workflow.yaml:4: 'yaml.words' is .*yaml/words.py, and 'yaml' is also"),
        ({"json/words.py": stage()}, "json.words", "'json' is also"),
        ({"gpt1/words.py": stage()}, "gpt1.words", "'gpt1' is also"),
        ({"my/one.py": stage("import yaml"), "my/yaml.py": ""}, "my.one", "one.py: `import yaml` is .*my/yaml.py, and also"),
        ({"my/one.py": stage("import yaml"), "yaml.py": ""}, "my.one", "one.py: `import yaml` is .*/yaml.py, and also"),
        ({"my/one.py": stage()}, "my/one.py", "unknown stage 'my/one.py'; .*uses: my.stage"),
        ({"my/one.py": stage()}, "my.two", "workflow.yaml:4: unknown stage 'my.two': no file my/two.py beside the workflow"),
        ({"my/one.py": "import nothing_like_it"}, "my.one", "cannot be imported .*nothing_like_it"),
        ({"my/one.py": "STAGE = 1 +"}, "my.one", "one.py:1: not Python"),
        ({"my/one.py": "STAGE = 1"}, "my.one", "its STAGE is 1; expected"),
        ({"my/one.py": "raise SystemExit(0)"}, "my.one", r"cannot be imported \(SystemExit: 0\)"),
        ({"my/one.py": "raise ValueError('two\\nlines')"}, "my.one", r"cannot be imported \(ValueError: two lines\)"),
        ({"my/one.py": f"SUM = {'+'.join('1' * 20_000)}"}, "my.one", "one.py: nested too deeply to be read"),
        ({"my/one.py": "# coding: nosuch"}, "my.one", "one.py: not Python .unknown encoding: nosuch"),
        ({"my/one.py": "STAGES = 1"}, "my.one", "cannot be imported .*STAGE"),
        ({"one.py": stage()}, "one", "unknown stage 'one'.*uses: my.stage"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, files: dict[str, str], uses: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        read(write(tmp_path, files, mine=uses))
    assert "\n" not in str(refused.value)


def test_a_helper_named_like_a_standard_module_is_that_of_its_package(tmp_path: Path) -> None:
    files = {"my/one.py": stage("import json", "from my import json as own"), "my/json.py": "OWN = 1\n"}
    read(write(tmp_path, files, one="my.one"))
    one = importlib.import_module("my.one")
    assert (one.json, one.own.OWN) == (json, 1)


def test_one_name_for_two_helpers_is_refused(tmp_path: Path) -> None:
    files = {f"{folder}/{name}.py": text for folder in "ab" for name, text in (("s", stage("import counting")), ("counting", ""))}
    with pytest.raises(UserError, match=r"`import counting` may be .*a/counting and .*b/counting; import it .*b\.counting"):
        read(write(tmp_path, files, one="a.s", two="b.s"))


def test_an_edit_changes_the_hash_of_the_stages_that_import_it(tmp_path: Path) -> None:
    file = write(tmp_path, HELPED, one="my.one", two="my.two")

    def hashes() -> list[str]:
        _hash.cache_clear()
        imported_by.cache_clear()
        read(file)
        return [code_hash("my.one"), code_hash("my.two"), code_hash("clean")]

    before = hashes()
    for name, changed in (("my/counting.py", 0), ("my/words/rule.py", 0), ("beside.py", 1)):
        (tmp_path / name).write_text("CHANGED = 1\n")
        after = hashes()
        assert [new != old for new, old in zip(after, before, strict=True)] == [place == changed for place in range(3)]
        before = after


@pytest.mark.parametrize("kind", stage_kinds())
def test_a_stage_is_hashed_with_what_it_imports_alone(kind: str) -> None:
    files = closure([f"stages.{kind}"], lambda module: module_file(ROOT, module))
    assert {f"stages.{kind}", "stages.contract", "gpt1.errors"} <= files.keys()
    assert any(module.startswith("gpt1.report.") for module in files) == (kind in ("report", "audit", "export"))
    assert not any(module.startswith("pipeline") for module in files)


def test_imports_are_read_in_functions_and_not_for_type_checkers(tmp_path: Path) -> None:
    lines = [
        "from typing import TYPE_CHECKING", "if TYPE_CHECKING:", "    import checked", "else:", "    import unchecked",
        "try:", "    import tried", "except ImportError:", "    from ..up import other",
        "def run():", "    with open('x'):", "        from . import here",
    ]  # fmt: skip
    (tmp_path / "a.py").write_text("\n".join(lines))
    names = {"typing", "typing.TYPE_CHECKING", "unchecked", "tried", "p.up", "p.up.other", "p.q", "p.q.here"}
    assert imported_by(tmp_path / "a.py", "p.q.a") == names


def test_a_long_chain_of_conditions_is_read(tmp_path: Path) -> None:
    chain = "".join(f"elif x == {number}:\n    import m{number}\n" for number in range(1000))
    (tmp_path / "a.py").write_text(f"if x is None:\n    pass\n{chain}")
    assert len(imported_by(tmp_path / "a.py", "p.a")) == 1000


def test_an_import_from_beyond_the_top_is_none(tmp_path: Path) -> None:
    """Python refuses it, and the file tries another one then; it must not take the whole folder of the workflow along."""
    either = "try:\n    from {} import beside\nexcept ImportError:\n    import beside\n"
    mine = stage(*either.format("..").splitlines(), "import top")
    files = {"my/one.py": mine, "top.py": either.format("."), "beside.py": "", "data.csv": "", "__init__.py": ""}
    assert read(write(tmp_path, files, one="my.one")).user_code.entries == ["beside.py", "my", "top.py"]


def test_a_helper_in_folders_without_init(tmp_path: Path) -> None:
    code = read(write(tmp_path, {"my/one.py": stage("import helpers.sub.x"), "helpers/sub/x.py": ""}, one="my.one")).user_code
    assert code.entries == ["helpers", "my"]


def test_a_link_to_a_workflow(tmp_path: Path) -> None:
    """The modules are beside the file, as of a linked script, or beside the link."""
    file = write(tmp_path / "project", {"my/one.py": stage()}, one="my.one")
    for folder in ("elsewhere", "another"):
        (tmp_path / folder / "my").mkdir(parents=True)
        (tmp_path / folder / "linked.yaml").symlink_to(file)
    (tmp_path / "another" / "my" / "one.py").write_text(stage())
    assert read(tmp_path / "elsewhere" / "linked.yaml").user_code.folder == tmp_path / "project"
    assert read(tmp_path / "another" / "linked.yaml").user_code.folder == tmp_path / "another"


def test_a_task_of_a_module(tmp_path: Path) -> None:
    file = write(tmp_path, {"my/weather.py": TASK})
    stages = {"task_data": {"with": {"source": str(tmp_path)}, "matrix": {"task": ["my.weather"]}}}
    file.write_text(yaml.safe_dump({"stages": stages}))
    workflow = read(file)
    assert list(workflow.cells) == ["task_data[task=my.weather]"]
    assert workflow.user_code.entries == ["my"]
    assert (task_named("my.weather").name, task_named("my.weather").title) == ("my.weather", "Weather or not")
    facts = json.loads(json.dumps({"task": "my.weather", "labels": ["yes", "no"], **definition(task_named("my.weather"))}))
    expected = replace(task_named("my.weather"), labels=("yes", "no"), folder="", files={}, columns=None)
    install(NONE)
    assert recorded_task(facts) == expected, "a model of the task is used where its module is not"
    read(file)
    before = code_hash("task_data", "my.weather"), code_hash("task_data", "mnli")
    (tmp_path / "my" / "weather.py").write_text(TASK + "\n")
    _hash.cache_clear()
    assert [code_hash("task_data", "my.weather") == before[0], code_hash("task_data", "mnli") == before[1]] == [False, True]
    file.write_text(file.read_text().replace("my.weather", "my.whether"))
    with pytest.raises(UserError, match=r"unknown task 'my\.whether': no file my/whether\.py"):
        read(file)


def test_what_is_sent_is_what_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unwanted = {"my/__pycache__/x.pyc": "", "my/.hidden": "", "polars/x.py": "", "other.py": "", "my/list.txt": "data"}
    file = write(tmp_path / "project", {**HELPED, **unwanted}, one="my.one", two="my.two")
    code = read(file).user_code
    packed = _pack(tmp_path / "packed", file, code)
    sent = {path.relative_to(packed / "user-code").as_posix() for path in (packed / "user-code").rglob("*") if path.is_file()}
    assert sent == {*HELPED, "my/list.txt"}
    assert {path.name for path in packed.iterdir()} == {"gpt1", "stages", "pipeline", "user-code", "workflow.yaml"}
    key = Order(file, (), code=code).key
    (tmp_path / "project" / "my" / "helper.py").write_text("HELPER = 2\n")
    assert Order(file, (), code=code).key != key
    monkeypatch.setenv(VARIABLE, code.runtime_env(str(packed / "user-code"))["env_vars"][VARIABLE])
    assert read(packed / "workflow.yaml").user_code.folder == packed / "user-code"
    assert importlib.import_module("my.helper").HELPER == 1


def test_modules_of_any_name_and_behind_links_are_found_where_they_were_sent(tmp_path: Path) -> None:
    files = {
        "user_code/one.py": stage("import infra_of_mine", "import user_code.linked.x"),
        "infra_of_mine.py": "",
        "real/x.py": "",
    }
    file = write(tmp_path / "project", files, one="user_code.one")
    (tmp_path / "project" / "user_code" / "linked").symlink_to("../real")
    (tmp_path / "project" / "user_code" / "round").symlink_to(".")
    (tmp_path / "project" / "user_code" / "up").symlink_to("..")
    (tmp_path / "project" / "real" / "corpus.txt").write_text("large")
    code = read(file).user_code
    packed = _pack(tmp_path / "packed", file, code)
    sent = {path.relative_to(packed / SENT_USER_CODE).as_posix() for path in (packed / SENT_USER_CODE).rglob("*.*")}
    assert sent == {"infra_of_mine.py", "user_code/one.py", "user_code/linked/x.py"}
    environment = {**os.environ, **code.runtime_env(SENT_USER_CODE)["env_vars"], "PYTHONPATH": ""}
    line = [sys.executable, "-m", "pipeline.cli", "plan", "--store", str(tmp_path / "store")]
    planned = subprocess.run(line, cwd=packed, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (planned.returncode, planned.stderr) == (0, "")


@pytest.mark.parametrize("path", [f":{ROOT}", f"{ROOT}:", str(ROOT)])
def test_an_empty_entry_of_the_path_is_not_the_working_directory(path: str, tmp_path: Path) -> None:
    (tmp_path / "polars").mkdir()
    code = """
import importlib.util, os, sys
from pipeline.cli import main
sys.argv = ["gpt1", "--version"]
try:
    main()
except SystemExit:
    print(importlib.util.find_spec("polars"), os.environ["PYTHONPATH"])
"""
    line = [sys.executable, "-c", code]
    ran = subprocess.run(
        line, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.splitlines()[-1] == f"None {ROOT}"


def parameters(command: str) -> dict[str, Any]:
    found: Any = typer.main.get_command(app)
    return {
        one.name: (one.opts, one.secondary_opts, one.default, one.nargs, one.envvar, getattr(one, "help", ""))
        for one in found.commands[command].params
        if one.name != "address"
    }


def test_submit_takes_the_options_of_run_and_passes_them_on() -> None:
    run, submit = parameters("run"), parameters("submit")
    assert {name: submit.get(name) for name in run} == run
    given = RunOptions(
        ["pretrain", "report"], Path("there.yaml"), "demo", ["a.b=1", "c.d=x y"], "s3://b/f", "clean", True, True, True, "rerun"
    )
    command: Any = typer.main.get_command(app)
    context = command.commands["run"].make_context("run", given.words("workflow.yaml", "/store"))
    expected = {**vars(given), "file": Path("workflow.yaml"), "store": "/store"}
    assert {name: context.params[name] for name in expected} == expected


def test_a_job_whose_cluster_has_a_package_of_that_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, {"yaml/words.py": stage()}, one="yaml.words")
    monkeypatch.setenv(VARIABLE, UserCode(tmp_path, (("yaml", ""),)).runtime_env()["env_vars"][VARIABLE])
    with pytest.raises(UserError, match="'yaml' was sent with this job, and is also"):
        read(file)
