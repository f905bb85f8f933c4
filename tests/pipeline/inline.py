"""Runs a workflow cell by cell in this process: the real stages, contexts and store, no cluster."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.execution.worker import Job, run_cell
from pipeline.planning.last_run import remember
from pipeline.planning.planner import Entry, Plan, Selection, make_plan
from pipeline.store.base import Store
from pipeline.store.record import DamagedArtifact
from pipeline.workflow.load import read
from stages.contract import Artifact
from tests.conftest import ROOT, write

TOY = ROOT / "tests" / "pipeline" / "toy" / "workflow.yaml"


def write_numbers(folder: Path, count: int = 3) -> Path:
    """A source for the toy workflow: files 1.txt, 2.txt, ..., with these numbers in them."""
    return write(folder, {f"{number}.txt": str(number) for number in range(1, count + 1)})


@dataclass(frozen=True)
class PrintReporter:
    """Prints what a cell says: for running a stage in this process, without a cluster."""

    cell: str = ""

    def started(self) -> None:
        self.info("started")

    def info(self, text: str) -> None:
        print(f"{self.cell}: {text}", file=sys.stderr)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        self.info(f"{done:g}/{total:g} {unit} {note}")

    def should_stop(self) -> bool:
        return False

    def flush(self) -> None:
        pass

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.info(f"{step}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))


MOOR = "The wind rose {} times over the moor.\tIt was calm."


def write_rte(folder: Path, count: int = 24, name: str = "RTE") -> None:
    """Examples of the task, or of one with the same columns."""
    labels = ("not_entailment", "entailment", "entailment")
    lines = [f"{n}\t{MOOR.format(n)}\t{labels[n % 3]}" for n in range(count)]
    text = "\n".join(["index\tsentence1\tsentence2\tlabel", *lines, ""])
    write(folder / name, {"train.tsv": text, "dev.tsv": text})


def write_stories(folder: Path) -> None:
    """The two labeled files of Story Cloze, of twenty stories."""
    header = "InputStoryid," + "".join(f"InputSentence{n}," for n in range(1, 5))
    header += "RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding"
    rows = [f"id{n},One.,Two.,Three.,Four.,Good end.,Bad end.,{1 + n % 2}" for n in range(20)]
    name = "cloze_test_{0}__spring2016 - cloze_test_ALL_{0}.csv"
    write(folder, dict.fromkeys(map(name.format, ("val", "test")), "\n".join([header, *rows, ""])))


def plan_of(
    file: Path, store: Path | str, *assignments: str, profile: str | None = None,
    selection: Selection | None = None,
) -> Plan:
    return make_plan(read(file, profile, assignments), Store.at(store), selection or Selection())


def run_inline(plan: Plan, run: str = "") -> list[str]:
    """Make what the plan says; the cells that were made, in order."""
    remember(plan)
    for entry in plan.to_run:
        plan.store.withdraw(entry.cell.uses, entry.fingerprint, "; ".join(entry.reasons))
        try:
            make(plan, entry, run)
        except DamagedArtifact as damage:  # parts, which a run makes again
            for key in damage.keys:
                plan.store.withdraw(*key.split("/")[:2], str(damage))
            make(plan, entry, run)
    return [entry.cell.id for entry in plan.to_run]


def make(plan: Plan, entry: Entry, run: str = "") -> None:
    """Make one cell, whose inputs are made."""
    cell, settings = entry.cell, entry.cell.settings.model_dump(mode="json")
    inputs = tuple(stored(plan, need) for need in cell.needs)
    given = (settings, inputs, tuple(entry.external_files), cell.resources, run)
    identity = (plan.store, cell.uses, cell.id, entry.fingerprint, entry.identity)
    run_cell(Job(*identity, *given, cluster=False), PrintReporter(cell.id))


def artifact(plan: Plan, cell: str) -> Artifact:
    """What is made of this cell, to be read by `output`."""
    return placed(plan.store, stored(plan, cell))


def placed(store: Store, found: Artifact) -> Artifact:
    """The artifact with absolute paths as keys, with which each store finds its files."""
    files = {
        name: replace(file, key=str(store.root / file.key)) for name, file in found.files.items()
    }
    return replace(found, files=files)


def output(found: Artifact, name: str) -> Path:
    """The file of that name."""
    return Path(found.file(name).key)


def stored(plan: Plan, cell: str) -> Artifact:
    """What is made of this cell."""
    entry = plan.entries[cell]
    found = plan.store.artifact(entry.cell.uses, entry.fingerprint)
    assert found is not None, f"{cell} is not made"
    return found
