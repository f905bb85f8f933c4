"""`gpt1 runs` and `gpt1 diff`; the figures that they and a run's progress show."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.runs import format_figures, headline, run_figures
from pipeline.planning.planner import Plan, Selection
from pipeline.store.base import Store
from pipeline.store.lease import Leases
from pipeline.store.record import ArtifactRecord
from pipeline.tracking.events import EventLog, JobCached, JobEnded, JobStarted, RunEnded, RunStarted
from pipeline.tracking.run_tree import RunLog
from tests.pipeline.inline import TOY, plan_of, run_inline
from tests.pipeline.inprocess import gpt1, refused, said

FIRST, SECOND, THIRD, FOURTH = (f"2026010{day}-000000-{day * 4}" for day in "1234")
CELLS = ("numbers", "total[factor=1]", "total[factor=2]")
CHANGED = dict.fromkeys(CELLS, "changed")


@pytest.fixture
def store(tmp_path: Path, numbers: Path, request: pytest.FixtureRequest) -> Any:
    """Two runs: all of the toy workflow, then again with another setting of its first stage."""
    on_s3 = getattr(request, "param", False)
    store = request.getfixturevalue("s3_store") if on_s3 else tmp_path / "store"
    run_inline(plan_of(TOY, store, f"numbers.source={numbers}"), FIRST)
    run_inline(plan_of(TOY, store, f"numbers.source={numbers}", "numbers.add=5"), SECOND)
    return store


def log_run(plan: Plan, run: str, started: float, failed: str = "", end: Any = "FINISHED") -> None:
    """The events that a driver writes of a run in which each job takes a second; without an `end`
    it is killed in its last job.
    """
    log = EventLog(plan.store, f"runs/{run}")
    log.write(RunStarted(
        time=started, name="a name", profile="toy", assignments=plan.workflow.assignments, tags={},
        params={},
    ))  # fmt: skip
    for now, (cell, entry) in enumerate(plan.entries.items(), int(started) + 1):
        facts: Any = {
            "time": now, "cell": cell, "stage": entry.cell.uses, "fingerprint": entry.fingerprint,
            "withdrawn": 0, "group": None, "axes": {}, "is_last": False, "tokens_per_step": 0,
        }  # fmt: skip
        if now > started + 1:
            log.write(JobStarted(attempt="1", params={}, tags={}, **facts))
            status: Any = "FAILED" if cell == failed else "FINISHED"
            if end or cell != CELLS[2]:
                log.write(JobEnded(time=now, cell=cell, status=status))
        else:
            log.write(JobCached(run="another", **facts))
    if end:
        log.write(RunEnded(time=started + 65, status=end, skipped=[]))
    log.close()


@pytest.mark.parametrize("store", [False, True], ids=["here", "s3"], indirect=True)
def test_runs_newest_last(store: Any, numbers: Path) -> None:
    assert said("runs", "--store", store).endswith("no runs recorded; start one with `gpt1 run`\n")
    first, second = (
        plan_of(TOY, store, f"numbers.source={numbers}", *more)
        for more in ((), ("numbers.add=5",))
    )
    log_run(second, SECOND, 1000.0)
    log_run(first, FIRST, 0.0, CELLS[2], "FAILED")
    log_run(second, THIRD, 2000.0, end=None)
    log_run(second, FOURTH, 3000.0, end="KILLED")
    found = gpt1("runs", "--json", "--store", store).json()
    statuses = ("failed", "done", "killed", "stopped")
    assert [(one["run"], one["status"]) for one in found] == [
        *zip((FIRST, SECOND, THIRD, FOURTH), statuses, strict=True)
    ]
    assert found[1] == {
        "run": SECOND, "started": 1000.0, "profile": "toy", "status": "done", "seconds": 65.0,
        "overrides": [f"numbers.source={numbers}", "numbers.add=5"], "figures": {"total": 42},
    }
    assert [(one["seconds"], one["figures"]["total"]) for one in found] == [
        (65, 6), (65, 42), (3, 21), (65, 42),
    ]
    heading, *lines = said("runs", "--store", store).splitlines()
    assert " ".join(heading.split()) == "run started profile status took figures --set"
    overrides = f"numbers.source={numbers} numbers.add=5"
    assert lines[1].endswith(f"  toy      done     1m 05s  total 42  {overrides}")
    leases = Leases(Store.at(store), THIRD)
    leases.take([f"runs/{THIRD}"])
    assert gpt1("runs", "--json", "--store", store).json()[2]["status"] == "running"
    leases.release()


def test_a_run_records_its_overrides(
    store: Path, numbers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    words = (f"numbers.source={numbers}", "numbers.add=5")
    log = RunLog(print, is_forced=lambda: True)
    log.run_started(plan_of(TOY, store, *words, profile="tripled"), THIRD)
    log.run_ended("FINISHED", [])
    [found] = gpt1("runs", "--json", "--store", store).json()
    assert (found["profile"], found["overrides"], found["figures"]) == ("tripled", [*words], {})


def record(cell: str, summary: Any, **settings: Any) -> ArtifactRecord:
    stage, place = cell.partition("[")[0], ("print", "attempt")
    names: Any = dict(zip(("fingerprint", "attempt"), place, strict=True))
    return ArtifactRecord(
        stage=stage, cell=cell, digest="", files={}, summary=summary, settings=settings, **names
    )


def score(task: str, seed: int, accuracy: float, variant: str = "full") -> ArtifactRecord:
    summary = {"f1": 3.0, "accuracy": accuracy, "metric": "accuracy", "variant": variant}
    return record(f"finetune[task={task},seed={seed}]", summary, task=task)


TRAINED = record("pretrain", {"train_loss": 5.0, "validation_perplexity": 106.2})
OTHER = record("pretrain[model=lstm]", {"validation_perplexity": 120.5})
BOOKS = record("ingest", {"authors": 2, "books": 48, "words": 5_490_000})
SCORES = [score("rte", 1, 50), score("rte", 2, 60), score("cola", 1, 25)]
ABLATION = score("cola", 2, 9, "lstm")


@pytest.mark.parametrize(("records", "shown"), [
    ([BOOKS], "books 48, words 5,490,000"), ([BOOKS, TRAINED], "held-out perplexity 106.2"),
    ([TRAINED, OTHER], "held-out perplexity 106.2, held-out perplexity[model=lstm] 120.5"),
    ([TRAINED, *SCORES, ABLATION], "held-out perplexity 106.2, mean score 40, tasks 2"),
    ([record("report", {"tasks": 3})], ""), ([record("my.stage", {"name": "x", "n": 3})], "n 3"),
    ([record("my.stage", {"metric": ["f1"], "n": 3})], "n 3"),
    ([BOOKS, record("report", {})], "books 48, words 5,490,000"),
])  # fmt: skip
def test_the_figures_of_a_run(records: list[ArtifactRecord], shown: str) -> None:
    assert format_figures(run_figures(records)) == shown


def test_the_figure_of_a_job() -> None:
    assert (headline(SCORES[0]), headline(TRAINED)) == (
        {"accuracy": 50}, {"held-out perplexity": 106.2},
    )  # fmt: skip


def compared(*words: object) -> tuple[str | None, str, dict[str, str]]:
    """The two runs that `diff` compares, and how each cell differs."""
    found = gpt1("diff", "--json", *words).json()
    return found["before"], found["after"], {row["cell"]: row["how"] for row in found["cells"]}


FEW = (THIRD, "numbers.add=8", Selection(("numbers",)))
FORCED = (THIRD, "numbers.add=5", Selection((CELLS[2],), only=True, force=True))
ANOTHER, NONE = (FOURTH, "numbers.add=9", Selection()), ("", "numbers.add=0", Selection())


@pytest.mark.parametrize(("later", "expected"), [
    ([], (FIRST, SECOND, CHANGED)), ([FEW], (SECOND, THIRD, {"numbers": "changed"})),
    ([FEW, ANOTHER], (SECOND, FOURTH, CHANGED)), ([FORCED], (SECOND, THIRD, {})),
    ([FORCED, NONE], (THIRD, FIRST, {**CHANGED, CELLS[1]: "only in the second run"})),
])  # fmt: skip
def test_diff_of_the_last_run(later: Any, expected: Any, store: Path, numbers: Path) -> None:
    """It is compared with the newest that has the same stages, also if it made few or nothing."""
    for run, assignment, selection in later:
        words = (f"numbers.source={numbers}", assignment)
        run_inline(plan_of(TOY, store, *words, selection=selection), run)
    assert compared("--store", store) == expected


def test_diff_of_runs_that_are_named(store: Path, numbers: Path) -> None:
    run_inline(plan_of(TOY, store, f"numbers.source={numbers}", profile="tripled"), THIRD)
    first, second = (f"only in the {number} run" for number in ("first", "second"))
    how = {"numbers": "changed", **dict.fromkeys(CELLS[1:], first), "total[factor=3]": second}
    assert compared(FIRST, "20260103", "--store", store) == (FIRST, THIRD, how)
    assert compared(SECOND, SECOND, "--store", store)[2] == {}
    options = ("--file", TOY, "--set", f"numbers.source={numbers}", "--store", store)
    assert compared(*options)[:2] == (THIRD, FIRST)
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


def test_diff_shows_only_what_differs(store: Path, numbers: Path) -> None:
    place = ("--store", store)
    printed = said("diff", FIRST, SECOND, *place)
    assert "numbers\n    with.add: 0 -> 5\n    total: 6 -> 21" in printed
    assert "same" not in printed
    assert said("diff", SECOND, SECOND, *place) == f"{SECOND} -> {SECOND}\nno differences\n"
    run_inline(plan_of(TOY, store, f"numbers.source={numbers}", profile="tripled"), THIRD)
    assert f"{CELLS[1]}: only in the first run\n" in said("diff", FIRST, THIRD, *place)


def test_diff_of_two_jobs(store: Path) -> None:
    """Of the last run; what cannot be compared is one line."""
    place = ("--store", store)
    found = gpt1("diff", CELLS[1], CELLS[2], "--json", *place).json()
    [row] = found["cells"]
    changes = [line for line in row["changes"] if "took" not in line]
    assert (found["before"], found["after"]) == CELLS[1:]
    assert changes == ["with.factor: 1.0 -> 2.0", "total: 21 -> 42"]
    refused("one kind of stage", "diff", "numbers", CELLS[1], *place)
    refused("no job 'nothing'", "diff", "nothing", CELLS[1], *place)
    refused("expected two runs, or two jobs", "diff", CELLS[1], FIRST, *place)
    refused("expected two runs, or two jobs", "diff", "numbers", *place)


def test_diff_refuses_runs_without_a_common_job(
    store: Path, numbers: Path, tmp_path: Path
) -> None:
    other = tmp_path / "workflow.yaml"
    other.write_text("stages: {others: {uses: tests.pipeline.toy.numbers}}")
    run_inline(plan_of(other, store, f"others.source={numbers}", "others.add=7"), THIRD)
    refused("have no job in common", "diff", FIRST, THIRD, "--store", store)
