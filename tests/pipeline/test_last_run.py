"""Commands that only look, without options, after a run; `gpt1 path`."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.planning.last_run import LAST_RUN, remember
from pipeline.planning.planner import Plan
from pipeline.store.atomic import read_signed
from tests.pipeline.inline import TOY, plan_of, run_inline, write_numbers
from tests.pipeline.inprocess import gpt1, refused

FILE = Path("workflow.yaml")
OPTIONS = ("--profile", "tripled", "--set", "numbers.source=mine")
USING = f"gpt1: using profile tripled of {FILE} --set numbers.source=mine (the store's last run)\n"


def tripled() -> Plan:
    return plan_of(FILE, "store", "numbers.source=mine", profile="tripled")


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
    assert read_signed((made / "store" / LAST_RUN).read_bytes()) == {
        "file": "workflow.yaml", "resolved": str(made / FILE), "profile": "tripled",
        "assignments": ["numbers.source=mine"],
        "cells": [[cell, f"{entry.cell.uses}/{entry.fingerprint}"] for cell, entry in cells],
    }
    for words, shown in (
        ("status --json", '"state": "done"'), ("plan --json", '"state": "done"'),
        ("status --explain", "rerun cost: "), ("graph", "<- numbers"), ("path total", "total"),
    ):
        ended = gpt1(*words.split())
        assert (ended.status, shown in ended.out, ended.err) == (0, True, USING), ended
    refused("picture.svg: cannot be written .No such file", "graph", "--svg", "none/picture.svg")
    assert gpt1("graph", "--svg", "picture.svg").status == 0
    assert (made / "picture.svg").read_text().count("<rect") == 2
    refused("workflow.yaml: no stage uses `pretrain`", "describe")
    refused("workflow.yaml: found 0 pretrain jobs", "pack", "packed")


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("given", ["--profile=tripled", f"--file={FILE}", "--set=numbers.add=2"])
def test_any_option_that_is_given_is_all_that_counts(given: str) -> None:
    refused("^gpt1: numbers: no such folder$", "plan", "--json", given)  # without its source
    refused("numbers: no such folder", "run", "--dry-run")  # it never guesses


@pytest.mark.parametrize("words", [("status",), ("run", "--dry-run")])
def test_a_look_and_a_dry_run_record_nothing(words: tuple[str, ...], here: Path) -> None:
    assert gpt1(*words, *OPTIONS).status == 0
    assert not (here / "store" / LAST_RUN).exists()


def test_from_another_folder_without_the_file_and_in_a_moved_store(made: Path) -> None:
    (made / "below").mkdir()
    ended = gpt1("graph", "--store", "../store", cwd=made / "below")
    assert ended.err.startswith(f"gpt1: using profile tripled of {made / FILE} ")
    before = gpt1("path", "numbers").out
    (made / FILE).unlink()
    refused(f"last run used {made / FILE}, which is gone; using", "status")
    assert gpt1("path", "numbers").out == before != ""
    (made / "store").rename(made / "moved")
    moved = ("--store", "moved")
    assert gpt1("path", "numbers", *moved).out == before.replace("/store/", "/moved/")
    shutil.rmtree(made / "moved" / "tests.pipeline.toy.total")
    refused("total.* has not run", "path", "total", *moved)


@pytest.mark.parametrize("address", ["me:hidden@example.com/a.zip", "example.com/a.zip?key=hidden"])
def test_a_secret_is_not_recorded(here: Path, address: str) -> None:
    secret = replace(tripled().workflow, assignments=(f"numbers.source=https://{address}",))
    remember(replace(tripled(), workflow=secret))
    assert "hidden" not in (here / "store" / LAST_RUN).read_text()
    assert "had a secret in --set" in gpt1("status").err


@pytest.mark.usefixtures("made")
def test_path_is_the_folder_of_the_files() -> None:
    assert Path(gpt1("path", "total[factor=3]").out.strip(), "total.txt").is_file()
    two = ("path", "total", "--set", "numbers.source=mine")
    refused(r"--set numbers.source=mine: total\[factor=1] has not run; start it", *two)
    run_inline(plan_of(FILE, "store", "numbers.source=mine"))
    rows = [line.split("\t") for line in gpt1(*two).out.splitlines()]
    assert [Path(place, "total.txt").read_text() for _, place in rows] == ["6\n", "12\n"]
    refused("unknown stage 'totl'", "path", "totl")


@pytest.mark.usefixtures("here")
def test_what_was_asked_to_end_is_stopped() -> None:
    plan = tripled()
    run_inline(plan)
    for entry in plan.entries.values():
        (plan.store.root / entry.job / "record.json").unlink()
        [attempt] = plan.store.attempts(entry.cell.uses, entry.fingerprint)
        plan.store.fail(attempt, "interrupted", stopped=True)
    cells = gpt1("status", "--json", *OPTIONS).json()["cells"]
    assert [(cell["state"], cell["run"]) for cell in cells] == [("stopped", True)] * 2
    assert cells[0]["reasons"] == ["interrupted", "3 of 3 parts are done"]
    run_inline(tripled())
    assert "nothing to run" in gpt1("plan", *OPTIONS).out
