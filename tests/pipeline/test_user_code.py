"""The user's modules: found beside the workflow, shadowing nothing, hashed with the stages."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from gpt1.tasks.registry import definition, recorded_task, task_named
from pipeline.execution.jobs import SENT_USER_CODE, JobSpec, _pack
from pipeline.planning.provenance import _hash, code_hash
from pipeline.workflow.imports import closure, imported_by, module_file
from pipeline.workflow.load import read
from pipeline.workflow.stages import stage_kinds
from pipeline.workflow.user_code import NONE, ROOT, VARIABLE, UserCode, install
from tests.conftest import refuses
from tests.conftest import write as write_files
from tests.pipeline.inprocess import gpt1

STAGE = """
from stages.contract import Stage
class Mine(Stage):
    def run(self, settings, context):
        import {late}
STAGE = Mine()
"""
TASK = """
from gpt1.tasks.registry import Column, SplitFile, Task
FILES = {"train": (SplitFile("train.tsv"),), "dev": (SplitFile("dev.tsv"),)}
TASK = Task("weather", "Weather or not", "classification", ("no", "yes"), ("accuracy",), "tsv",
            "weather", FILES, Column(("sentence",), "label"))
"""


@pytest.fixture(autouse=True)
def no_user_code() -> Iterator[None]:
    """A process reads one workflow; this one reads many."""
    yield
    install(NONE)


def stage(*imports: str, late: str = "sys") -> str:
    return "\n".join(imports) + STAGE.format(late=late)


def write(folder: Path, files: dict[str, str], *uses: str) -> Path:
    """The files, and a workflow whose stages are `uses`."""
    stages = {f"stage{number}": {"uses": module} for number, module in enumerate(uses)}
    workflow = yaml.safe_dump({"name": "mine", "stages": stages})
    return write_files(folder, {**files, "workflow.yaml": workflow}) / "workflow.yaml"


HELPED = {
    "my/one.py": stage("import my.helper", "import counting", "from .words import rule"),
    "my/two.py": stage(late="beside"), "my/helper.py": "HELPER = 1\n",
    "my/counting.py": "COUNTING = 1\n", "my/words/__init__.py": "",
    "my/words/rule.py": "RULE = 1\n", "beside.py": "BESIDE = 1\n",
}  # fmt: skip
ONE, COUNTS, YAML = "my.one", stage("import counting"), stage("import yaml")


def test_a_stage_finds_its_helpers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {**HELPED, "polars/x.py": "", "yaml/__init__.py": "1 / 0", "my/json.py": "OWN = 1"}
    files["my/names.py"] = stage("import yaml", "import json", "from my import json as own")
    file = write(tmp_path / "project", files, "my.names", ONE, "my.two")
    monkeypatch.chdir(tmp_path)  # whatever the working directory is
    code = read(file).user_code
    assert dict(code.places) == {"my": "", "counting": "my", "beside": ""}
    assert importlib.import_module("beside").BESIDE == 1
    assert importlib.import_module("counting").__file__ == str(tmp_path / "project/my/counting.py")
    assert not {str(tmp_path), str(tmp_path / "project"), ""} & set(sys.path)
    assert importlib.util.find_spec("polars") is None
    found = importlib.import_module("my.names")
    assert (found.yaml, found.json, found.own.OWN) == (yaml, json, 1)


TWO = {"a/s.py": COUNTS, "a/counting.py": "", "my/one.py": COUNTS, "my/counting.py": ""}


@pytest.mark.parametrize(("files", "uses", "said"), [
    ({"yaml/words.py": stage()}, "yaml.words", "yaml:4: 'yaml.words' is .*but 'yaml' is also"),
    ({"gpt1/words.py": stage()}, "gpt1.words", "'gpt1' is also"),
    ({"my/one.py": YAML, "yaml.py": ""}, ONE, "`import yaml` could mean .*/yaml.py or"),
    ({"my/one.py": ""}, "my/one.py", "unknown stage 'my/one.py'; .*uses: my.stage"),
    ({"my/one.py": ""}, "my.two", "yaml:4: unknown stage 'my.two': no file my/two.py"),
    ({"my/one.py": "import nothing_like_it"}, ONE, "cannot be imported .*nothing_like_it"),
    ({"my/one.py": "STAGE = 1 +"}, ONE, "one.py:1: not valid Python"),
    ({"my/one.py": "STAGE = 1"}, ONE, "its STAGE is 1; expected"),
    ({"my/one.py": "raise SystemExit(0)"}, ONE, r"be imported \(SystemExit: 0\)"),
    ({"my/one.py": "raise ValueError('two\\nlines')"}, ONE, r"\(ValueError: two lines\)"),
    ({"my/one.py": f"SUM = {'+'.join('1' * 20_000)}"}, ONE, "nested too deeply to parse"),
    ({"my/one.py": "# coding: nosuch"}, ONE, "one.py: not valid Python .unknown encoding: nosuch"),
    (TWO, "a.s", "`import counting` could mean .*a/counting or .*my/counting; import it with"),
])  # fmt: skip
def test_what_cannot_be_meant(tmp_path: Path, files: dict[str, str], uses: str, said: str) -> None:
    refuses(said, read, write(tmp_path, files, uses, *([ONE] if files is TWO else [])))


def changed(file: Path, content: str, *parts: tuple[str, ...]) -> list[str]:
    """The first names of those that have another hash when the file has this content."""
    found = []
    for text in (file.read_text(), content):
        _hash.cache_clear()  # as of a new process
        imported_by.cache_clear()
        file.write_text(text)
        found.append([code_hash(*part) for part in parts])
    return [part[-1] for part, old, new in zip(parts, *found, strict=True) if old != new]


@pytest.mark.parametrize(
    ("name", "stage"), [("my/counting.py", ONE), ("my/words/rule.py", ONE), ("beside.py", "my.two")]
)
def test_an_edit_changes_the_hash_of_importers(name: str, stage: str, tmp_path: Path) -> None:
    read(write(tmp_path, HELPED, ONE, "my.two"))
    assert changed(tmp_path / name, "NEW = 1\n", (ONE,), ("my.two",), ("clean",)) == [stage]


@pytest.mark.parametrize("kind", stage_kinds())
def test_a_stage_is_hashed_with_what_it_imports_alone(kind: str) -> None:
    files = closure([f"stages.{kind}"], lambda module: module_file(ROOT, module))
    assert {f"stages.{kind}", "stages.contract", "gpt1.errors"} <= files.keys()
    reports = any(module.startswith("gpt1.report.") for module in files)
    assert reports == (kind in ("report", "audit", "export"))
    assert not any(module.startswith("pipeline") for module in files)


def test_an_import_from_beyond_the_top_is_none_and_folders_need_no_init(tmp_path: Path) -> None:
    either = "try:\n    from {} import beside\nexcept ImportError:\n    import beside\n"
    checked = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import other\n"
    mine = checked + either.format("..") + stage("import top", "import helpers.sub.x")
    chain = "".join(f"elif x == {number}:\n    import beside\n" for number in range(1000))
    top = f"{either.format('.')}x = None\nif x is None:\n    pass\n{chain}"
    empty = ("helpers/sub/x.py", "other.py", "beside.py", "data.csv", "__init__.py")
    files = {"my/one.py": mine, "top.py": top, **dict.fromkeys(empty, "")}
    entries = read(write(tmp_path, files, ONE)).user_code.entries
    assert entries == ["beside.py", "helpers", "my", "top.py"]


def test_a_link_to_a_workflow(tmp_path: Path) -> None:
    """The modules are beside the file, as of a linked script, or beside the link."""
    file = write(tmp_path / "project", {"my/one.py": stage()}, ONE)
    for folder, mine, found in (("elsewhere", "x", "project"), ("another", "one", "another")):
        link = write(tmp_path / folder, {f"my/{mine}.py": stage()}).with_name("linked.yaml")
        link.symlink_to(file)
        assert read(link).user_code.folder == tmp_path / found


def test_a_task_of_a_module(tmp_path: Path) -> None:
    file = write(tmp_path, {"my/weather.py": TASK})
    data = {"with": {"source": str(tmp_path)}, "matrix": {"task": ["my.weather"]}}
    file.write_text(yaml.safe_dump({"stages": {"task_data": data}}))
    workflow, task = read(file), task_named("my.weather")
    assert (list(workflow.cells), task.title) == (["task_data[task=my.weather]"], "Weather or not")
    parts, module = (("task_data", "my.weather"), ("task_data", "mnli")), tmp_path / "my/weather.py"
    assert changed(module, TASK + "\n", *parts) == ["my.weather"]
    facts = json.dumps({"task": task.name, "labels": ["yes", "no"], **definition(task)})
    install(NONE)  # a model of the task is used where its module is not
    expected = replace(task, labels=("yes", "no"), folder="", files={}, columns=None)
    assert recorded_task(json.loads(facts)) == expected
    file.write_text(file.read_text().replace("my.weather", "my.whether"))
    refuses(r"unknown task .*no file my/whether", read, file)


def test_what_is_sent_is_what_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, three = tmp_path / "project", stage("import user_code.linked.x")
    files = {**HELPED, "my/list.txt": "data", "user_code/three.py": three}
    others = "my/__pycache__/x.pyc my/.hidden polars/x.py other.py real/corpus.txt real/x.py"
    there = {**files, **dict.fromkeys(others.split(), "")}
    file = write(project, there, "user_code.three", ONE, "my.two")
    for link, target in (("linked", "../real"), ("round", "."), ("up", "..")):
        (project / "user_code" / link).symlink_to(target)
    code = read(file).user_code
    packed = _pack(tmp_path / "packed", file, code)
    top = packed / SENT_USER_CODE
    sent = {path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file()}
    assert sent == {*files, "user_code/linked/x.py"}
    key = JobSpec(file, (), code=code).key
    (project / "my" / "helper.py").write_text("HELPER = 2\n")
    assert JobSpec(file, (), code=code).key != key
    monkeypatch.setenv(VARIABLE, code.runtime_env(str(top))["env_vars"][VARIABLE])
    assert read(packed / "workflow.yaml").user_code.folder == top
    assert importlib.import_module("my.helper").HELPER == 1


def test_a_package_of_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that brings one of the same name is refused."""
    file = write(tmp_path, {"yaml/words.py": stage()}, "yaml.words")
    for name, value in UserCode(tmp_path, (("yaml", ""),)).runtime_env()["env_vars"].items():
        monkeypatch.setenv(name, value)
    refuses("'yaml' was sent with this job, but is also", read, file)


@pytest.mark.parametrize("path", [f":{ROOT}", f"{ROOT}:", str(ROOT)])
def test_an_empty_path_entry(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not the working directory, where any folder would answer for a package."""
    probe = "import importlib.util as u, os\nraise ValueError(u.find_spec('polars'), {})"
    mine = {"my/one.py": probe.format("os.environ['PYTHONPATH']"), "polars/x": ""}
    file = write(tmp_path, mine, ONE)
    for entry in ("", str(tmp_path)):
        monkeypatch.syspath_prepend(entry)
    ended = gpt1("plan", "--file", file, cwd=tmp_path, PYTHONPATH=path)
    assert (ended.status, f"(None, '{ROOT}')" in ended.err) == (2, True), ended
