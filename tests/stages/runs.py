"""Running stages for real in this process, without a cluster, and reading what they published."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpt1.corpus.document import Document, read_books
from gpt1.corpus.split import SplitRow, read_split
from gpt1.train.checkpoint import file_sha256
from pipeline.execution.worker import Job, run_cell
from pipeline.planning.planner import Plan, Selection
from pipeline.store.base import Store
from stages.contract import Artifact, ExternalFile, Resources, Settings, StoredFile
from tests.conftest import write
from tests.pipeline.inline import PrintReporter, artifact, output, placed, plan_of, run_inline

WORKFLOW = Path(__file__).parent / "text_workflow.yaml"
PROSE = "The old man went down to the sea, and he was gone until the evening of day {} in year {}."
FRENCH = "Il a dit que la vie est belle, et que les hommes ne sont pas mauvais dans ce temps {}."
made = artifact
TEXT_STAGES = ("ingest", "clean", "split", "vocabulary", "shard", "audit")


def run(file: Path, store: Path, *assignments: str, stages: Sequence[str] = ()) -> Plan:
    """Plan a workflow, or these stages with what they need, and make all that is not done."""
    plan = plan_of(file, store, *assignments, selection=Selection(stages=tuple(stages)))
    run_inline(plan)
    return plan


def run_text(store: Path, source: Path, *assignments: str, until: str = "shard") -> Plan:
    """The text stages up to one of them, on books of a folder."""
    return run(WORKFLOW, store, f"ingest.source={source}", *assignments, stages=(until,))


_numbers = itertools.count()


def run_stage(
    settings: Settings, inputs: Sequence[Artifact], store: Path,
    external_files: Sequence[ExternalFile] = (), run: str = "",
) -> Artifact:  # fmt: skip
    """Run the stage of these settings, each time as another job, and return what it published."""
    target, fingerprint = Store.at(store), f"{next(_numbers):032x}"
    kind = type(settings).__module__.removeprefix("stages.")
    given = (settings.model_dump(mode="json"), tuple(inputs), tuple(external_files), Resources())
    job = Job(target, kind, kind, fingerprint, {}, *given, run, cluster=False)
    run_cell(job, PrintReporter(kind))
    found = target.artifact(kind, fingerprint)
    assert found is not None
    return placed(target, found)


def given(folder: Path, stage: str, cell: str = "", **about: Any) -> Artifact:
    """A published artifact with the files of `folder`; `about` is its settings and summary."""
    paths = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    files = {
        n: StoredFile(n, str(p.absolute()), p.stat().st_size, file_sha256(p))
        for n, p in paths.items()
    }
    cell, about = cell or stage, {"settings": {}, "summary": {}, **about}
    return Artifact(stage, cell, f"{len(cell):02x}" * 16, "ab" * 32, files=files, **about)


def parts(plan: Plan, stage: str) -> tuple[int, int]:
    """How many parts were made and reused."""
    record = plan.store.record(stage, plan.entries[stage].fingerprint)
    assert record is not None
    return record.parts["made"], record.parts["reused"]


def digests(artifact: Artifact) -> dict[str, str]:
    """sha256 of every file that is not volatile."""
    return {name: file.sha256 for name, file in artifact.files.items() if not file.volatile}


def lines(artifact: Artifact, prefix: str) -> list[dict[str, Any]]:
    """The objects of all JSON Lines files whose names begin so."""
    texts = [Path(file.key).read_text() for file in artifact.under(prefix)]
    return [json.loads(line) for text in texts for line in text.splitlines()]


def document(artifact: Artifact, name: str) -> Any:
    """A JSON file."""
    return json.loads(output(artifact, name).read_text())


def books(artifact: Artifact) -> dict[str, Document]:
    """All books by id."""
    found = [book for file in artifact.under("books/") for book in read_books(Path(file.key))]
    return {book.id: book for book in found}


def split_rows(plan: Plan) -> dict[str, SplitRow]:
    """The table of the split by book."""
    return {row.book: row for row in read_split(output(made(plan, "split"), "split.parquet"))}


def training_texts(plan: Plan) -> list[str]:
    """What is trained on: the texts of the books of the training set, without their tails."""
    rows = split_rows(plan)
    trained = [book for book in books(made(plan, "clean")).values() if rows[book.id].set == "train"]
    return [book.text[: rows[book.id].tail_start] for book in trained]


def library(folder: Path, backwards: bool = False) -> Path:
    """Twelve books by three authors; a copy, a French, a short and a garbled one."""
    files = {}
    for number in range(12):
        days = [[PROSE.format(10 * part + n, number) for n in range(9)] for part in range(5)]
        chapters = [f"CHAPTER {part}\n\n" + "\n\n".join(text) for part, text in enumerate(days)]
        head = f'Produced by Somebody\n\n\nBOOK {number}\n\n"Well," said _he_.\n\n'
        files[f"author {number % 3}/book_{number}.txt"] = head + "\n\n".join(chapters)
    original = files["author 0/book_0.txt"]
    files["zz.txt"] = original.replace('"Well,"', "“Well,”").replace(" of ", "\nof ")
    files["french.txt"] = "\n\n".join(FRENCH.format(n) for n in range(60))
    files["leaflet.txt"] = "too short"
    files["figures.txt"] = "| 12 | 34.5 | 17 % |\n\n" * 400
    return write(folder, {name: files[name] for name in sorted(files, reverse=backwards)})
