"""Commands that only look, without options, after a run; `gpt1 path`; the line about the report."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gpt1.errors import StoppedError, UserError
from pipeline.cli import _link_report, app
from pipeline.context import Job, run_cell
from pipeline.events import PrintReporter
from pipeline.last_run import LAST_RUN, SUBMITTED_FILE, last_run, remember
from pipeline.plan import Plan
from pipeline.store import Store
from stages.contract import OutputFile
from tests.conftest import ROOT
from tests.pipeline.inline import plan_of, run_inline

TOY = ROOT / "tests" / "pipeline" / "toy" / "workflow.yaml"
USING = "gpt1: using profile tripled of workflow.yaml --set numbers.source=mine (the store's last run)"


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(*words: str | Path) -> str:
    done = invoke(*words)
    assert isinstance(done.exception, UserError), done.output
    return str(done.exception)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the toy workflow and its numbers, and nothing run."""
    (tmp_path / "mine").mkdir()
    for number in range(1, 4):
        (tmp_path / "mine" / f"{number}.txt").write_text(str(number))
    (tmp_path / "workflow.yaml").write_text(TOY.read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def options() -> list[str]:
    return ["--profile", "tripled", "--set", "numbers.source=mine"]


@pytest.fixture
def made(here: Path, options: list[str]) -> Path:
    """The same after the command has run the profile `tripled`, and found all of it made."""
    run_inline(plan_of(Path("workflow.yaml"), here / "store", "numbers.source=mine", profile="tripled"))
    done = invoke("run", *options)
    assert "nothing to run" in done.stdout, done.output
    return here


def test_a_run_records_its_options_and_commands_that_look_take_them(made: Path) -> None:
    plan = plan_of(Path("workflow.yaml"), made / "store", "numbers.source=mine", profile="tripled")
    assert json.loads((made / "store" / LAST_RUN).read_text()) == {
        "file": "workflow.yaml",
        "resolved": str(made / "workflow.yaml"),
        "profile": "tripled",
        "assignments": ["numbers.source=mine"],
        "cells": [[cell, f"{entry.cell.uses}/{entry.fingerprint}"] for cell, entry in plan.entries.items()],
    }
    for command in ("status", "plan"):
        done = invoke(command, "--json")
        found = json.loads(done.stdout)
        assert found["profile"] == "tripled"
        assert {cell["cell"]: cell["state"] for cell in found["cells"]} == {
            "numbers": "done",
            "total[factor=3]": "done",
        }
        assert done.stderr == f"{USING}\n"
    assert "numbers" in invoke("graph").stdout
    assert invoke("status", "--explain").stderr == f"{USING}\n"
    assert refused("describe").startswith("workflow.yaml: no stage uses `pretrain`")
    assert refused("pack", "packed").startswith("workflow.yaml: one must be named")


@pytest.mark.parametrize("given", [["--profile", "tripled"], ["--file", "workflow.yaml"], ["--set", "numbers.add=2"]])
def test_any_option_that_is_given_is_all_that_counts(made: Path, given: list[str]) -> None:
    del made
    done = invoke("plan", "--json", *given)
    assert isinstance(done.exception, UserError), "without a source of numbers"
    assert done.stderr == ""
    assert isinstance(invoke("run", "--dry-run").exception, UserError), "`run` never guesses"


def test_a_look_and_a_dry_run_record_nothing(here: Path, options: list[str]) -> None:
    for words in (["status"], ["run", "--dry-run"]):
        assert invoke(*words, *options).exit_code == 0
    assert not (here / "store" / LAST_RUN).exists()
    assert isinstance(invoke("status").exception, UserError), "as before: the workflow without a profile"


def test_the_file_is_found_from_another_folder_and_its_loss_is_said(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (made / "below").mkdir()
    monkeypatch.chdir(made / "below")
    done = invoke("graph", "--store", "../store")
    assert done.stderr.startswith(f"gpt1: using profile tripled of {made / 'workflow.yaml'} ")
    monkeypatch.chdir(made)
    (made / "workflow.yaml").rename(made / "other.yaml")
    done = invoke("status")
    assert f"the store's last run used {made / 'workflow.yaml'}, which is gone" in done.stderr
    assert "workflow.yaml: no such file" in str(done.exception)


def test_what_the_last_run_made_is_found_without_its_workflow(made: Path) -> None:
    before = invoke("path", "numbers").stdout
    (made / "workflow.yaml").unlink()
    assert invoke("path", "numbers").stdout == before != ""
    (made / "store").rename(made / "moved")
    assert invoke("path", "numbers", "--store", "moved").stdout == before.replace("/store/", "/moved/")
    assert "did you mean 'numbers'" in str(invoke("path", "numbrs", "--store", "moved").exception)
    shutil.rmtree(made / "moved" / "tests.pipeline.toy.total")
    assert "total not made" in str(invoke("path", "total", "--store", "moved").exception)


@pytest.mark.parametrize("source", ["https://me:hidden@example.com/a.zip", "https://example.com/a.zip?signature=hidden"])
def test_a_secret_is_not_recorded(here: Path, source: str) -> None:
    store = Store.at(here / "store")
    plan = plan_of(Path("workflow.yaml"), store.root, "numbers.source=mine", profile="tripled")
    workflow = replace(plan.workflow, assignments=(f"numbers.source={source}",))
    remember(replace(plan, workflow=workflow))
    assert "hidden" not in (here / "store" / LAST_RUN).read_text()
    assert "had a secret in --set" in invoke("status").stderr


def test_a_store_on_s3_remembers_the_submitters_file(
    here: Path, options: list[str], s3_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SUBMITTED_FILE, str(here / "workflow.yaml"))
    run_inline(plan_of(TOY, s3_store, "numbers.source=mine", profile="tripled"))
    copied = here / "job"
    copied.mkdir()
    (copied / "workflow.yaml").write_text(TOY.read_text())
    assert invoke("run", "--file", copied / "workflow.yaml", "--store", s3_store, *options).exit_code == 0
    (copied / "workflow.yaml").unlink()
    last = last_run(Store.at(s3_store))
    assert last is not None
    assert last.file == here / "workflow.yaml"
    done = invoke("status", "--json", "--store", s3_store)
    assert {cell["state"] for cell in json.loads(done.stdout)["cells"]} == {"done"}
    address = invoke("path", "numbers", "--store", s3_store).stdout.strip()
    assert address.startswith(f"{s3_store}/tests.pipeline.toy.numbers/")


def test_path_is_the_folder_of_the_files(made: Path) -> None:
    done = invoke("path", "total")
    assert done.stderr == f"{USING}\n"
    folder = Path(done.stdout.removesuffix("\n"))
    assert folder.is_absolute()
    assert (folder / "total.txt").read_text() == "27\n"
    assert invoke("path", "total[factor=3]").stdout == done.stdout
    two = ["--set", "numbers.source=mine"]
    said = refused("path", "total", *two)
    assert said.startswith(f"{made / 'store'}: total[factor=1]: expected done, found never run; ")
    assert said.endswith("make it: gpt1 run 'total[factor=1]' --set numbers.source=mine")
    run_inline(plan_of(Path("workflow.yaml"), made / "store", "numbers.source=mine"))
    rows = [line.split("\t") for line in invoke("path", "total", *two).stdout.splitlines()]
    assert [job for job, _ in rows] == ["total[factor=1]", "total[factor=2]"]
    assert [(Path(place) / "total.txt").read_text() for _, place in rows] == ["6\n", "12\n"]
    assert "unknown stage 'totl'" in refused("path", "totl")


def test_the_version() -> None:
    done = invoke("--version")
    assert done.exit_code == 0
    assert done.stdout.startswith("gpt1 0.")
    assert done.stdout.endswith(f"Python {platform.python_version()}\n")


def test_what_was_asked_to_end_is_stopped(here: Path, options: list[str]) -> None:
    plan = plan_of(Path("workflow.yaml"), here / "store", "numbers.source=mine", profile="tripled")
    [numbers, total] = plan.entries.values()
    run_inline(plan_of(Path("workflow.yaml"), here / "store", "numbers.source=mine", profile="tripled"))
    (plan.store.folder(total.cell.uses, total.fingerprint) / "record.json").unlink()
    (plan.store.folder(numbers.cell.uses, numbers.fingerprint) / "record.json").unlink()
    for entry in (numbers, total):
        [attempt] = plan.store.attempts(entry.cell.uses, entry.fingerprint)
        plan.store.fail(attempt, "interrupted", user=True, stopped=True)
    cells = {cell["cell"]: cell for cell in json.loads(invoke("status", "--json", *options).stdout)["cells"]}
    assert (cells["numbers"]["state"], cells["numbers"]["reasons"]) == (
        "stopped",
        ["interrupted", "3 of 3 parts are made"],
    )
    assert (cells["total[factor=3]"]["state"], cells["total[factor=3]"]["run"]) == ("stopped", True)
    assert "stopped" in invoke("graph", *options).stdout
    run_inline(plan_of(Path("workflow.yaml"), here / "store", "numbers.source=mine", profile="tripled"))
    assert "nothing to run" in invoke("plan", *options).stdout


def test_a_stage_that_was_stopped_says_so_itself(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(Path("workflow.yaml"), here / "store", "numbers.source=mine", profile="tripled")
    entry = plan.entries["numbers"]

    def stop(*_: object) -> None:
        raise StoppedError("stopped on request after step 3")

    monkeypatch.setattr(type(entry.cell.stage), "run", stop)
    settings = entry.cell.settings.model_dump(mode="json")
    about = (entry.fingerprint, entry.identity, settings, (), tuple(entry.outside))
    job = Job(plan.store, entry.cell.uses, entry.cell.id, *about, entry.cell.resources, cluster=False)
    with pytest.raises(StoppedError):
        run_cell(job, PrintReporter())
    done = invoke("plan", "--profile", "tripled", "--set", "numbers.source=mine")
    assert "numbers          stopped    stopped on request after step 3\n" in done.stdout


def report_plan(store: Path, *assignments: str) -> Plan:
    """The toy workflow's plan with its last cell as if it were a stage `report`."""
    plan = plan_of(Path("workflow.yaml"), store, "numbers.source=mine", "total.factor=1", *assignments)
    entry = plan.entries["total"]
    cell = replace(entry.cell, id="report", node="report", uses="report")
    return replace(plan, entries={**plan.entries, "total": replace(entry, cell=cell)})


def test_a_report_is_offered_where_it_is_of_this_plan_and_up_to_date(here: Path) -> None:
    shown, plan = here / "store" / "report.html", report_plan(here / "store")
    entry = plan.entries["total"]
    attempt = plan.store.new_attempt("report", entry.fingerprint)
    (attempt / "report.html").write_text("one")
    files = {"report.html": OutputFile("report.html", attempt / "report.html", 3, "0" * 64)}
    plan.store.publish("report", entry.fingerprint, files, {"attempt": attempt.name})
    assert _link_report(plan, ["numbers"]) == ""
    assert not shown.exists()
    assert _link_report(plan, ["numbers", "total"]) == f"report: {shown}"
    assert shown.read_text() == "one"
    other = report_plan(here / "store", "numbers.add=5")
    command = "gpt1 run total --set numbers.source=mine --set total.factor=1 --set numbers.add=5"
    assert _link_report(other, ["numbers"]) == f"{shown} is stale; make it: {command}"
    assert _link_report(plan_of(TOY, here / "store", "numbers.source=mine"), []) == "", "no report in it"
