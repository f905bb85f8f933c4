"""The commands that look: `doctor`, `diff`, `status --explain`, `graph --svg`, and the help page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gpt1.errors import UserError
from pipeline.cli import app
from pipeline.commands.panels import PANELS
from pipeline.plan import Selection
from tests.conftest import ROOT
from tests.pipeline.inline import plan_of, run_inline

TOY = ROOT / "tests" / "pipeline" / "toy" / "workflow.yaml"
FIRST, SECOND = "20260101-000000-aaaa", "20260102-000000-bbbb"


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def books(tmp_path: Path) -> Path:
    folder = tmp_path / "numbers"
    folder.mkdir()
    for number in range(1, 4):
        (folder / f"{number}.txt").write_text(str(number))
    return folder


@pytest.fixture
def store(tmp_path: Path, books: Path) -> Path:
    """Two runs: all of the toy workflow, then again with another setting of its first stage."""
    folder = tmp_path / "store"
    run_inline(plan_of(TOY, folder, f"numbers.source={books}"), FIRST)
    run_inline(plan_of(TOY, folder, f"numbers.source={books}", "numbers.add=5"), SECOND)
    return folder


def test_doctor_finds_nothing_here_that_stops_a_run(tmp_path: Path) -> None:
    done = invoke("doctor", "--json", "--store", tmp_path / "new" / "store")
    assert done.exit_code == 0, done.output
    found = {finding["name"]: finding for finding in json.loads(done.output)}
    assert {"Python", "torch", "CUDA", "deepspeed", "ray", "mlflow", "shared memory", "open files", "disk", "store"} <= set(found)
    assert not (tmp_path / "new").exists(), "it only looks"


def test_doctor_says_how_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    command = f"ulimit -n 300; exec {sys.executable} -m pipeline.cli doctor --json --store {tmp_path / 'file'}"
    environment = {
        **os.environ, "MLFLOW_TRACKING_URI": "http://me:secret@127.0.0.1:1", "RAY_TMPDIR": str(tmp_path / ("x" * 90)),
        "RAY_AUTH_MODE": "disabled",
    }  # fmt: skip
    (tmp_path / ("x" * 90)).mkdir()
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert (found["store"]["state"], "--store" in found["store"]["mend"]) == ("fail", True)
    assert (found["open files"]["state"], "ulimit -n" in found["open files"]["mend"]) == ("warn", True)
    assert (found["Ray's folder"]["state"], "RAY_TMPDIR" in found["Ray's folder"]["mend"]) == ("fail", True)
    assert (found["Ray's token"]["state"], "RAY_AUTH_MODE" in found["Ray's token"]["mend"]) == ("warn", True)
    assert (found["MLflow's server"]["state"], "track sync" in found["MLflow's server"]["mend"]) == ("warn", True)
    assert "secret" not in done.stdout


def test_diff_names_settings_inputs_and_figures(store: Path) -> None:
    done = invoke("diff", "--store", store)
    assert done.exit_code == 0, done.output
    said = done.stdout
    assert said.startswith(f"{FIRST} -> {SECOND}\n")
    assert "numbers: changed\n    with.add: 0 -> 5\n    total: 6 -> 21\n" in said
    assert "total[factor=1]: changed\n    input tests.pipeline.toy.numbers changed" in said
    shown = [line.split(": ", 1)[1].split(" -> ") for line in said.splitlines() if line.startswith("    ") and " -> " in line]
    assert all(old != new for old, new in shown)


THIRD = "20260103-000000-cccc"


def runs(*words: str | Path) -> tuple[str | None, str, dict[str, str]]:
    """The two runs that `diff` compares, and how each cell differs."""
    done = invoke("diff", "--json", *words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    return found["before"], found["after"], {row["cell"]: row["how"] for row in found["cells"]}


def test_a_run_of_few_stages_is_passed_over(store: Path, books: Path) -> None:
    run_inline(plan_of(TOY, store, f"numbers.source={books}", "numbers.add=8", selection=Selection(("numbers",))), THIRD)
    fourth = "20260104-000000-dddd"
    run_inline(plan_of(TOY, store, f"numbers.source={books}", "numbers.add=9"), fourth)
    assert runs("--store", store) == (SECOND, fourth, dict.fromkeys(("numbers", "total[factor=1]", "total[factor=2]"), "changed"))


def test_a_last_run_of_few_stages_is_compared_in_these(store: Path, books: Path) -> None:
    run_inline(plan_of(TOY, store, f"numbers.source={books}", "numbers.add=8", selection=Selection(("numbers",))), THIRD)
    assert runs("--store", store) == (SECOND, THIRD, {"numbers": "changed"})
    assert runs(SECOND, THIRD, "--store", store)[2]["total[factor=1]"] == "only in the first run", "as they were named"


def test_the_last_run_is_compared_though_it_made_little_or_nothing(store: Path, books: Path) -> None:
    forced = Selection(("total[factor=2]",), only=True, force=True)
    run_inline(plan_of(TOY, store, f"numbers.source={books}", "numbers.add=5", selection=forced), THIRD)
    before, after, how = runs("--store", store)
    assert (before, after) == (SECOND, THIRD)
    assert set(how.values()) == {"same"}
    # The first run's settings again: all of it is there.
    assert run_inline(plan_of(TOY, store, f"numbers.source={books}")) == []
    before, after, how = runs("--store", store)
    assert (before, after, how["numbers"]) == (THIRD, FIRST, "changed")


def test_diff_of_options_and_what_it_refuses(store: Path, books: Path) -> None:
    options = ("--file", TOY, "--set", f"numbers.source={books}", "--store", store)
    assert runs(*options)[:2] == (SECOND, FIRST)
    for words, message in (
        ((FIRST, SECOND, *options), "found a second run and options of one"),
        ((*options, "--set", "numbers.add=7"), "nothing is made of"),
    ):
        assert message in str(invoke("diff", *words).exception)


def test_the_only_run_has_nothing_to_be_compared_with(tmp_path: Path, books: Path) -> None:
    run_inline(plan_of(TOY, tmp_path / "new", f"numbers.source={books}"), FIRST)
    assert runs("--store", tmp_path / "new") == (None, FIRST, {})
    assert invoke("diff", "--store", tmp_path / "new").stdout.startswith(f"{FIRST}: no other run")


def test_a_run_is_what_it_made_and_what_that_was_made_from(store: Path, books: Path) -> None:
    third = "20260103-000000-cccc"
    run_inline(plan_of(TOY, store, f"numbers.source={books}", profile="tripled"), third)
    rows = {row["cell"]: row for row in json.loads(invoke("diff", FIRST, "20260103", "--store", store, "--json").stdout)["cells"]}
    assert rows["numbers"]["changes"][0] == "with.add: 0 -> 1"
    assert rows["total[factor=3]"]["how"] == "only in the second run"
    same = json.loads(invoke("diff", SECOND, SECOND, "--store", store, "--json").stdout)["cells"]
    assert {row["how"] for row in same} == {"same"}
    assert len(same) == 3


def test_diff_of_a_store_on_s3_is_that_of_a_folder(store: Path, books: Path, s3_store: str) -> None:
    for run, assignments in ((FIRST, ()), (SECOND, ("numbers.add=5",))):
        made = plan_of(TOY, s3_store, f"numbers.source={books}", *assignments)
        run_inline(made, run)
    made.store.withdraw("numbers", made.entries["numbers"].fingerprint)  # what was taken back had been made all the same

    def rows(where: str | Path) -> list[dict[str, object]]:
        found = json.loads(invoke("diff", "--store", where, "--json").stdout)["cells"]
        return [{**row, "changes": [line for line in row["changes"] if not line.startswith("took")]} for row in found]

    assert rows(s3_store) == rows(store)
    refused = invoke("diff", "--store", store.parent / "none")
    assert isinstance(refused.exception, UserError)
    assert "name one with --store" in str(refused.exception)


@pytest.mark.parametrize("wrong", ["nothing", "2026"])
def test_a_run_that_is_not_one(store: Path, wrong: str) -> None:
    done = invoke("diff", wrong, "--store", store)
    assert isinstance(done.exception, UserError)
    assert FIRST in str(done.exception)


def test_status_explains_and_says_what_a_rerun_costs(store: Path, books: Path) -> None:
    words = ("--file", TOY, "--store", store, "--set", f"numbers.source={books}", "--set", "numbers.add=7", "--explain")
    lines = invoke("status", *words).output.splitlines()
    assert lines[0] == "numbers: stale"
    assert lines[1] in ("    why: with.add: 0 -> 7", "    why: with.add: 5 -> 7")
    assert lines[2].startswith("    making it again: ")
    assert lines[2].endswith("for the 2 cells that depend on it")
    assert "    needs: numbers" in lines


def test_the_picture_has_states_and_times(store: Path, books: Path, tmp_path: Path) -> None:
    svg = tmp_path / "graph.svg"
    done = invoke("graph", "--file", TOY, "--store", store, "--set", f"numbers.source={books}", "--svg", svg)
    assert done.exit_code == 0, done.output
    assert "total x2" in svg.read_text()
    assert " s</text>" in svg.read_text()


def test_help_teaches_and_every_command_has_a_place() -> None:
    done = invoke("--help")
    assert "First steps" in done.output
    assert "\x1b" not in done.output, "no colours where no terminal is"
    for panel in PANELS:
        assert panel in done.output
    named = {name for names in PANELS.values() for name in names}
    ours = {
        info.name or info.callback.__name__
        for info in (*app.registered_commands, *app.registered_groups)
        if info.callback or info.name
    }
    assert ours <= named, f"commands without a place in pipeline/commands/panels.py: {ours - named}"


def completed(shell: str, *words: str) -> str:
    """What the shell would be offered after `words`."""
    environment = {
        **os.environ,
        "_GPT1_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": " ".join(words),
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    code = "from pipeline.cli import app; app(prog_name='gpt1')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_there_for_every_shell(shell: str) -> None:
    assert "doctor" in completed(shell, "gpt1", "do")
    assert "one-gpu" in completed(shell, "gpt1", "run", "--profile", "on")
    assert "zero_shot" in completed(shell, "gpt1", "run", "--file", "workflow.yaml", "ze")
    assert "error" not in completed(shell, "gpt1", "plan", "--file", "nowhere.yaml", "--profile", "d").lower()
