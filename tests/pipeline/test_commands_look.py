"""The commands that only look: `diff`, `doctor`, `describe`; completion, options."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli.options import RunOptions, with_options
from pipeline.planning.planner import Selection
from tests.conftest import ROOT
from tests.pipeline.inline import TOY, plan_of, run_inline
from tests.pipeline.inprocess import gpt1, refused

FIRST, SECOND, THIRD, FOURTH = (f"2026010{day}-000000-{day * 4}" for day in "1234")
CELLS = ("numbers", "total[factor=1]", "total[factor=2]")
CHANGED, SAME = dict.fromkeys(CELLS, "changed"), dict.fromkeys(CELLS, "same")


@pytest.fixture
def store(tmp_path: Path, numbers: Path, request: pytest.FixtureRequest) -> Any:
    """Two runs: all of the toy workflow, then again with another setting of its first stage."""
    on_s3 = getattr(request, "param", False)
    store = request.getfixturevalue("s3_store") if on_s3 else tmp_path / "store"
    run_inline(plan_of(TOY, store, f"numbers.source={numbers}"), FIRST)
    run_inline(plan_of(TOY, store, f"numbers.source={numbers}", "numbers.add=5"), SECOND)
    return store


def test_doctor_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / ("x" * 90)).mkdir()
    server, folder = "http://me:secret@127.0.0.1:1", str(tmp_path / ("x" * 90))
    variables = {"MLFLOW_TRACKING_URI": server, "RAY_TMPDIR": folder}
    ended = gpt1("doctor", "--json", "--store", tmp_path / "file", **variables)
    assert (ended.status, "secret" in ended.out) == (1, False), ended
    found = {one["name"]: one["state"] for one in json.loads(ended.out) if one["fix"]}
    expected = {"store": "fail", "Ray folder": "fail", "MLflow server": "warn"}
    assert expected.items() < found.items()


def test_doctor_asks_for_the_bucket(s3_store: str) -> None:
    for store, state in ((s3_store, "ok"), (s3_store.replace("store-bucket", "other"), "fail")):
        found = json.loads(gpt1("doctor", "--json", GPT1_STORE=store).out)
        assert [one["state"] for one in found if one["name"] == "store"] == [state]


def runs(*words: object) -> tuple[str | None, str, dict[str, str]]:
    """The two runs that `diff` compares, and how each cell differs."""
    found = gpt1("diff", "--json", *words).json()
    return found["before"], found["after"], {row["cell"]: row["how"] for row in found["cells"]}


FEW = (THIRD, "numbers.add=8", Selection(("numbers",)))
FORCED = (THIRD, "numbers.add=5", Selection((CELLS[2],), only=True, force=True))
ANOTHER, NONE = (FOURTH, "numbers.add=9", Selection()), ("", "numbers.add=0", Selection())


@pytest.mark.parametrize(("later", "compared"), [
    ([], (FIRST, SECOND, CHANGED)), ([FEW], (SECOND, THIRD, {"numbers": "changed"})),
    ([FEW, ANOTHER], (SECOND, FOURTH, CHANGED)), ([FORCED], (SECOND, THIRD, SAME)),
    ([FORCED, NONE], (THIRD, FIRST, {**CHANGED, CELLS[1]: "only in the second run"})),
])  # fmt: skip
def test_diff_of_the_last_run(later: Any, compared: Any, store: Path, numbers: Path) -> None:
    """It is compared with the newest that has the same stages, also if it made few or nothing."""
    for run, assignment, selection in later:
        words = (f"numbers.source={numbers}", assignment)
        run_inline(plan_of(TOY, store, *words, selection=selection), run)
    assert runs("--store", store) == compared


def test_diff_of_runs_that_are_named(store: Path, numbers: Path) -> None:
    run_inline(plan_of(TOY, store, f"numbers.source={numbers}", profile="tripled"), THIRD)
    first, second = (f"only in the {number} run" for number in ("first", "second"))
    how = {"numbers": "changed", **dict.fromkeys(CELLS[1:], first), "total[factor=3]": second}
    assert runs(FIRST, "20260103", "--store", store) == (FIRST, THIRD, how)
    assert runs(SECOND, SECOND, "--store", store)[2] == SAME
    options = ("--file", TOY, "--set", f"numbers.source={numbers}", "--store", store)
    assert runs(*options)[:2] == (THIRD, FIRST)
    refused("found a second run and --file", "diff", FIRST, SECOND, *options)
    refused(FIRST, "diff", "2026", "--store", store)
    refused("choose one with --store", "diff", "--store", store.parent / "none")


@pytest.mark.parametrize("store", [False, True], ids=["here", "s3"], indirect=True)
def test_diff_says_what_changed(store: Any, numbers: Path) -> None:
    made = plan_of(TOY, store, f"numbers.source={numbers}", "numbers.add=5")
    changed = "input tests.pipeline.toy.numbers changed"
    for words in ((), (FIRST, SECOND)):
        rows = gpt1("diff", *words, "--store", store, "--json").json()["cells"]
        assert [[line for line in row["changes"] if "took" not in line] for row in rows] == [
            ["with.add: 0 -> 5", "total: 6 -> 21"], [changed, "total: 6 -> 21"],
            [changed, "total: 12 -> 42"],
        ]
        # What was taken back had been made all the same.
        entry = made.entries["numbers"]
        made.store.withdraw(entry.cell.uses, entry.fingerprint, "a test")


ALL = RunOptions(
    ["split", "total[factor=1]"], Path("w.yaml"), "demo", ["a.b=1", "c.d=[1, 2]"], "s3://b/x",
    "clean", True, True, True, "rerun", "2h",
)  # fmt: skip


@pytest.mark.parametrize("options", [RunOptions(), ALL], ids=["none", "all"])
def test_the_arguments_of_a_job_mean_the_options_of_submit(options: RunOptions) -> None:
    app, parsed = typer.Typer(), list[RunOptions]()

    @app.command()
    @with_options
    def command(options: RunOptions) -> None:
        parsed.append(options)

    ended = CliRunner().invoke(app, options.to_args(), catch_exceptions=False)
    assert (ended.exit_code, parsed) == (0, [options]), ended.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_completes_words(shell: str) -> None:
    variables = {"_GPT1_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    for words, offered in {
        "gpt1 do": "doctor", "gpt1 run --profile on": "one-gpu", "gpt1 run ze": "zero_shot",
        "gpt1 plan --file nowhere.yaml --profile d": "",
    }.items():
        place = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        ended = gpt1(cwd=ROOT, _TYPER_COMPLETE_ARGS=words, **place, **variables)
        assert (offered in ended.out, "error" in ended.out.lower()) == (True, False), ended


def test_describe_forecasts_the_papers_training() -> None:
    words = "describe --file workflow.yaml --tokens 1000000000 --device H100 --mfu 0.5 --json"
    row, lstm = gpt1(*words.split(), cwd=ROOT).json()
    sizes = {one["cell"]: one["parameters"] for one in (row, lstm)}
    assert sizes == {"pretrain[model=gpt]": 116_534_784, "pretrain[model=lstm]": 56_140_544}
    assert (row["steps"], row["epochs"], row["ranks"]) == (1_000_000, 32.768, 8)
    assert row["seconds"] == pytest.approx(32.768e9 * 755.8e6 / (67e12 * 0.5 * 8), rel=1e-3)
    refused("Toaster", "describe", "--device", "Toaster", cwd=ROOT)
