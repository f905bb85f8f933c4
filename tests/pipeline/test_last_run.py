"""Commands that only look, without options, after a run; `gpt1 path`; the line about the report."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import StoppedError
from pipeline.cli import _link_report
from pipeline.last_run import LAST_RUN, SUBMITTED_FILE, remember
from pipeline.plan import Plan
from stages.contract import OutputFile
from tests.pipeline.inline import TOY, make, plan_of, run_inline, write_numbers
from tests.pipeline.inprocess import gpt1

FILE = Path("workflow.yaml")
OPTIONS = ("--profile", "tripled", "--set", "numbers.source=mine")
USING = f"gpt1: using profile tripled of {FILE} --set numbers.source=mine (the store's last run)\n"


def refused(*words: object, **options: Any) -> str:
    ended = gpt1(*words, **options)
    assert ended.status == 2, ended
    return ended.err


def tripled(store: Path | str = "store") -> Plan:
    return plan_of(FILE, store, "numbers.source=mine", profile="tripled")


def states(*words: object) -> dict[str, str]:
    cells = gpt1("status", "--json", *words).json()["cells"]
    return {cell["cell"]: cell["state"] for cell in cells}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the toy workflow and its numbers, and nothing run."""
    write_numbers(tmp_path / "mine")
    shutil.copy(TOY, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def made(here: Path) -> Path:
    """The same after the command has run the profile `tripled`, and found all of it made."""
    run_inline(tripled())
    assert "nothing to run" in gpt1("run", *OPTIONS).out
    return here


def test_a_run_records_its_options_and_commands_that_look_take_them(made: Path) -> None:
    cells = tripled().entries.items()
    assert json.loads((made / "store" / LAST_RUN).read_text()) == {
        "file": "workflow.yaml", "resolved": str(made / FILE), "profile": "tripled",
        "assignments": ["numbers.source=mine"],
        "cells": [[cell, f"{entry.cell.uses}/{entry.fingerprint}"] for cell, entry in cells],
    }
    for words in ("status --json", "plan --json", "status --explain", "graph", "path total"):
        ended = gpt1(*words.split())
        assert (ended.status, ended.err) == (0, USING)
    assert states() == {"numbers": "done", "total[factor=3]": "done"}
    assert "workflow.yaml: no stage uses `pretrain`" in refused("describe")
    assert "workflow.yaml: one must be named" in refused("pack", "packed")


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    "given", [("--profile", "tripled"), ("--file", FILE), ("--set", "numbers.add=2")]
)
def test_any_option_that_is_given_is_all_that_counts(given: tuple[object, ...]) -> None:
    assert refused("plan", "--json", *given).splitlines() == [
        "gpt1: numbers: no such folder"  # without its source
    ]
    assert "numbers: no such folder" in refused("run", "--dry-run"), "`run` never guesses"


@pytest.mark.parametrize("words", ["status", "run --dry-run"])
def test_a_look_and_a_dry_run_record_nothing(words: str, here: Path) -> None:
    assert gpt1(*words.split(), *OPTIONS).status == 0
    assert not (here / "store" / LAST_RUN).exists()
    refused("status")  # as before: the workflow without a profile


def test_the_file_is_found_from_another_folder_and_its_loss_is_said(made: Path) -> None:
    (made / "below").mkdir()
    ended = gpt1("graph", "--store", "../store", cwd=made / "below")
    assert ended.err.startswith(f"gpt1: using profile tripled of {made / FILE} ")
    (made / FILE).rename(made / "other.yaml")
    said = refused("status")
    assert f"the store's last run used {made / FILE}, which is gone" in said
    assert "workflow.yaml: no such file" in said


def test_what_the_last_run_made_is_found_without_its_workflow(made: Path) -> None:
    before = gpt1("path", "numbers").out
    (made / FILE).unlink()
    assert gpt1("path", "numbers").out == before != ""
    (made / "store").rename(made / "moved")
    moved = ("--store", "moved")
    assert gpt1("path", "numbers", *moved).out == before.replace("/store/", "/moved/")
    assert "did you mean 'numbers'" in refused("path", "numbrs", *moved)
    shutil.rmtree(made / "moved" / "tests.pipeline.toy.total")
    assert "total not made" in refused("path", "total", *moved)


@pytest.mark.parametrize("address", ["me:hidden@example.com/a.zip", "example.com/a.zip?key=hidden"])
def test_a_secret_is_not_recorded(here: Path, address: str) -> None:
    plan = tripled()
    secret = replace(plan.workflow, assignments=(f"numbers.source=https://{address}",))
    remember(replace(plan, workflow=secret))
    assert "hidden" not in (here / "store" / LAST_RUN).read_text()
    assert "had a secret in --set" in gpt1("status").err


def test_a_store_on_s3_remembers_the_submitters_file(here: Path, s3_store: str) -> None:
    run_inline(tripled(s3_store))
    copied = here / "job" / FILE
    copied.parent.mkdir()
    shutil.copy(TOY, copied)
    words = ("run", "--file", copied, "--store", s3_store, *OPTIONS)
    assert gpt1(*words, **{SUBMITTED_FILE: str(here / FILE)}).status == 0
    copied.unlink()
    assert set(states("--store", s3_store).values()) == {"done"}
    address = gpt1("path", "numbers", "--store", s3_store).out.strip()
    assert address.startswith(f"{s3_store}/tests.pipeline.toy.numbers/")


def test_path_is_the_folder_of_the_files(made: Path) -> None:
    folder = Path(gpt1("path", "total[factor=3]").out.removesuffix("\n"))
    assert (folder.is_absolute(), (folder / "total.txt").read_text()) == (True, "27\n")
    two = ("path", "total", "--set", "numbers.source=mine")
    said = refused(*two)
    start = f"gpt1: {made / 'store'}: total[factor=1]: expected done, found never run; "
    assert said == f"{start}make it: gpt1 run 'total[factor=1]' --set numbers.source=mine\n"
    run_inline(plan_of(FILE, "store", "numbers.source=mine"))
    rows = [line.split("\t") for line in gpt1(*two).out.splitlines()]
    assert [(job, (Path(place) / "total.txt").read_text()) for job, place in rows] == [
        ("total[factor=1]", "6\n"),
        ("total[factor=2]", "12\n"),
    ]
    assert "unknown stage 'totl'" in refused("path", "totl")


def test_the_version() -> None:
    said = gpt1("--version").out
    assert said.startswith("gpt1 0.")
    assert said.endswith(f"Python {platform.python_version()}\n")


@pytest.mark.usefixtures("here")
def test_what_was_asked_to_end_is_stopped() -> None:
    plan = tripled()
    run_inline(plan)
    for entry in plan.entries.values():
        (plan.store.folder(entry.cell.uses, entry.fingerprint) / "record.json").unlink()
        [attempt] = plan.store.attempts(entry.cell.uses, entry.fingerprint)
        plan.store.fail(attempt, "interrupted", user=True, stopped=True)
    cells = gpt1("status", "--json", *OPTIONS).json()["cells"]
    assert [(cell["state"], cell["run"]) for cell in cells] == [("stopped", True)] * 2
    assert cells[0]["reasons"] == ["interrupted", "3 of 3 parts are made"]
    assert "stopped" in gpt1("graph", *OPTIONS).out
    run_inline(tripled())
    assert "nothing to run" in gpt1("plan", *OPTIONS).out


@pytest.mark.usefixtures("here")
def test_a_stage_that_was_stopped_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tripled()
    entry = plan.entries["numbers"]

    def stop(*_: object) -> None:
        raise StoppedError("stopped on request after step 3")

    monkeypatch.setattr(type(entry.cell.stage), "run", stop)
    with pytest.raises(StoppedError):
        make(plan, entry)
    [numbers, _] = gpt1("plan", *OPTIONS, "--json").json()["cells"]
    assert numbers["state"] == "stopped"
    assert numbers["reasons"] == ["stopped on request after step 3"]


def report_plan(store: Path, *assignments: str) -> Plan:
    """The toy workflow's plan with its last cell as if it were a stage `report`."""
    plan = plan_of(FILE, store, "numbers.source=mine", "total.factor=1", *assignments)
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
    words = "--set numbers.source=mine --set total.factor=1 --set numbers.add=5"
    stale = f"{shown} is stale; make it: gpt1 run total {words}"
    assert _link_report(other, ["numbers"]) == stale
    assert _link_report(plan_of(TOY, here / "store", "numbers.source=mine"), []) == ""
