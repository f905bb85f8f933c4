"""What one run of the workflow tells MLflow: a parent run, a child for each stage, a grandchild
for each job of a matrix.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from gpt1.wording import number, span
from pipeline.planning.planner import Entry, Plan
from pipeline.planning.provenance import git_commit, package_versions, user_name
from pipeline.store.base import Store
from pipeline.store.record import ArtifactRecord, record_name
from pipeline.store.snapshot import StoreSnapshot
from pipeline.tracking.tracker import LONGEST_TAG, Status, Tracker
from pipeline.workflow.expand import Cell
from stages.contract import MODELS, Artifact

RUN_ID_LENGTH = 32
OVER_TOKENS = "over_tokens"  # curves under this name count tokens, not steps
SETS = {"validation_": "val/", "dev_": "dev/", "test_": "test/", "train_": "train/"}
TRAINING = ("loss", "lr", "gradient_norm", "task_loss", "lm_loss", "skipped_batches")
SCORES = ("accuracy", "f1", "matthews", "pearson", "spearman")
GAP = "\u00a0\u00a0 | "  # MLflow draws the columns of a table without a space between them
MOST_FIGURES = 6  # in a table of cells
NOTE = "mlflow.note.content"  # the tag that MLflow shows as a run's description
CELLS = "cells.json"  # the document with all cells of a run whose description has no room for them
NEWEST = "newest"  # the alias of the registered model's last version
# Seconds to wait for the tracking server's first answer; MLflow takes some seconds to load
RUN_ID_WAIT = 15.0


def metric_name(name: str) -> str:
    """The MLflow metric of a figure: train/loss, val/bpb, dev/accuracy; others keep their names."""
    for prefix, place in SETS.items():
        if name.startswith(prefix):
            return place + name.removeprefix(prefix).replace("bits_per_byte", "bpb")
    if name in TRAINING:
        return f"train/{name.replace('gradient', 'grad')}"
    return f"dev/{name}" if name.split("/")[0] in SCORES else name


class Records:
    """Passes a run's doings to the tracker.

    Nothing here waits for the server, but for the first run id.
    """

    def __init__(self, plan: Plan, run: str, info: Callable[[str], None]) -> None:
        self._plan = plan
        self._run = run
        self._groups: set[str] = set()
        self._cached: dict[str, str] = {}
        self._made: dict[str, tuple[str, float]] = {}
        self._figures: dict[str, Mapping[str, Any]] = {}
        needed = {need for entry in plan.entries.values() for need in entry.cell.needs}
        self._ends = {
            cell
            for cell, entry in plan.entries.items()
            if cell not in needed and not entry.cell.axes
        }
        self._uses = {entry.fingerprint: entry.cell.uses for entry in plan.entries.values()}
        self._uids: dict[str, str] = {}
        self._open: set[str] = set()
        self._wait = RUN_ID_WAIT
        self._tracker = Tracker(plan.store, info=info)
        self._tracker.close_left_open(keep={_uid(plan.snapshot, entry) for entry in plan.to_run})
        workflow = plan.workflow
        tags = {
            "gpt1.kind": "workflow", "gpt1.profile": workflow.profile or "",
            "gpt1.workflow": workflow.name, "gpt1.store": plan.store.where,
            **_origin(str(workflow.file)),
        }  # fmt: skip
        self._tracker.start(
            run, f"{workflow.profile or workflow.name} {run}", None, tags, time.time()
        )
        self._tracker.params(run, package_versions())

    def started(self, entry: Entry) -> str | None:
        """Open the run of a cell (or open it again, so that its curves go on).

        Returns MLflow's id when the server answers soon.
        """
        cell, now = entry.cell, time.time()
        parent = self._run
        if cell.axes:
            parent = f"{self._run}/{cell.node}"
            if parent not in self._groups:
                self._groups.add(parent)
                self._tracker.start(
                    parent, cell.node, self._run, {"gpt1.kind": "matrix", "gpt1.stage": cell.uses},
                    now,
                )
        uid = self._uids[cell.id] = _uid(self._plan.store, entry)
        tags = {
            "gpt1.kind": "job" if cell.axes else "stage", "gpt1.stage": cell.uses,
            "gpt1.cell": cell.id, "gpt1.fingerprint": entry.fingerprint,
            "gpt1.why": "; ".join(entry.reasons)[:500], **_origin(f"stages/{cell.uses}"),
        }  # fmt: skip
        self._open.add(uid)
        self._tracker.start(uid, cell.id, parent, tags, now)
        self._tracker.params(uid, dict(cell.settings.model_dump(mode="json")))
        run_id = self._tracker.run_id(uid, self._wait)
        if run_id is None:
            self._wait = 0.2
        return run_id

    def log(self, entry: Entry, step: int, values: Mapping[str, float], when: float) -> None:
        """A point of one or more curves.

        Those of a pre-training are drawn over the tokens read as well.
        """
        named = {metric_name(name): value for name, value in values.items()}
        self._tracker.metrics(self._uid(entry), step, named, when)
        curves = {
            f"{OVER_TOKENS}/{name}": value
            for name, value in named.items()
            if name in ("train/loss", "val/perplexity")
        }
        if entry.cell.uses == "pretrain" and curves:
            settings = entry.cell.settings.model_dump()
            self._tracker.metrics(
                self._uid(entry), step * settings["batch_size"] * settings["context"], curves, when
            )

    def made(self, entry: Entry, artifact: Artifact, record: ArtifactRecord) -> None:
        """Close the run of a cell with what it made: own small files as files, everything by
        reference.
        """
        uid, when = self._uid(entry), record.finished
        numbers = self._figure(entry, artifact.summary)
        self._tracker.metrics(uid, 0, {**numbers, "seconds": record.seconds}, when)
        store = self._plan.store
        for file in artifact.files.values():
            if file.key.startswith(f"{entry.job}/"):  # not those of its parts
                inner = file.name.rpartition("/")[0]
                self._tracker.artifact(
                    uid, store.address(file.key), f"outputs/{inner}".rstrip("/"), file.size
                )
        self._tracker.document(uid, record_name(1), record.model_dump(mode="json"))
        files = [
            {"name": file.name, "uri": store.address(file.key), "size": file.size,
                "sha256": file.sha256}
            for file in artifact.files.values()
        ]  # fmt: skip
        self._tracker.references(uid, files)
        for name, digest in sorted(record.inputs.items()):
            content = record.input_digests[digest]
            source = store.address(f"{self._uses[digest]}/{digest}")
            self._tracker.dataset(uid, name, content[:32], source, entry.cell.uses)
        for name, sha256 in list(entry.identity["files"].items())[:20]:
            self._tracker.dataset(uid, name, sha256[:32], f"source:{name}", "source")
        for model, name in artifact.summary.get(MODELS, {}).items():
            inside = artifact.under(f"{model}/")[0]
            folder = store.address(inside.key).rpartition("/")[0]
            aliases = [NEWEST, self._plan.workflow.profile or self._plan.workflow.name]
            self._tracker.model(uid, name, folder, f"{artifact.fingerprint}/{model}", aliases)
        self._made[entry.cell.id] = (record.mlflow_run_id or "", record.seconds)
        note = cell_note(record, store, self._uses)
        self._tracker.tags(
            uid,
            {
                "gpt1.digest": artifact.digest, "gpt1.parts": str(record.parts),
                NOTE: note,
            },
        )
        self._tracker.end(uid, "FINISHED", when)
        self._open.discard(uid)

    def failed(self, entry: Entry, error: str, word: Status = "FAILED") -> None:
        """Close the run of a cell that failed, or was ended."""
        uid = self._uid(entry)
        self._tracker.tags(uid, {"gpt1.error": error[:4000]})
        self._tracker.end(uid, word, time.time())
        self._open.discard(uid)

    def cached(self, entry: Entry) -> None:
        """A cell that is not run again: the parent links to the run that made it."""
        record = entry.last.record
        if record is not None:
            self._cached[entry.cell.id] = record.mlflow_run_id or record.run
            self._figure(entry, record.summary)

    def _figure(self, entry: Entry, summary: Mapping[str, Any]) -> dict[str, float]:
        """The numbers of a summary.

        Those of a stage that nothing needs (the report) become the whole run's as well.
        """
        numbers = {
            metric_name(name): float(value)
            for name, value in summary.items()
            if isinstance(value, int | float)
        }
        self._figures[entry.cell.id] = numbers
        if entry.cell.id in self._ends:
            self._tracker.metrics(self._run, 0, numbers)
        return numbers

    def close(self, word: Status, skipped: list[str]) -> int:
        """End the parent run, and as KILLED the cells' that are still open, and wait a while for
        the server. Returns how many entries it has not acknowledged.
        """
        for uid in self._open:
            self._tracker.end(uid, "KILLED", time.time())
        tags = {f"gpt1.cached.{cell}": run_id for cell, run_id in self._cached.items()}
        rows = [
            f"| {_link(cell, run_id)} | ran in {span(seconds)} |"
            for cell, (run_id, seconds) in self._made.items()
        ]
        rows += [
            f"| {_link(cell, run_id)} | cached, from run `{run_id}` |"
            for cell, run_id in self._cached.items()
        ]
        cells = [
            {"cell": cell, "run": run_id, "seconds": _plain(seconds)}
            for cell, (run_id, seconds) in self._made.items()
        ]
        cells += [
            {"cell": cell, "run": run_id, "seconds": None} for cell, run_id in self._cached.items()
        ]
        if rows:
            tags[NOTE] = self._note(self._run, ["| job | |", "|---|---|"], rows, cells)
        if skipped:
            tags["gpt1.skipped"] = ", ".join(skipped)[:4000]
        if tags:
            self._tracker.tags(self._run, tags)
        for group in self._groups:
            self._tracker.tags(group, {NOTE: self._comparison(group)})
            self._tracker.end(group, word, time.time())
        self._tracker.end(self._run, word, time.time())
        return self._tracker.close()

    def _comparison(self, group: str) -> str:
        """The description of a matrix's run: its cells side by side."""
        cells = [
            cell
            for cell in self._plan.workflow.node_cells(group.rpartition("/")[2])
            if cell.id in self._figures
        ]
        if not cells:
            return ""
        run_ids = {**self._cached, **{cell: run_id for cell, (run_id, _) in self._made.items()}}
        everything = [
            {
                "cell": cell.id, "axes": {axis: _plain(value) for axis, value in cell.axes.items()},
                "figures": {name: _plain(value) for name, value in self._figures[cell.id].items()},
                "run": run_ids.get(cell.id, ""),
            }
            for cell in cells
        ]  # fmt: skip
        return self._note(group, *comparison(cells, self._figures, run_ids), everything)

    def _note(
        self, uid: str, head: Sequence[str], rows: Sequence[str], cells: Sequence[Mapping[str, Any]]
    ) -> str:
        """A table as the description of a run; `cells` as a document of that run where the
        description has no room for all rows.
        """
        note, left = fitting(head, rows)
        if left:
            self._tracker.document(uid, CELLS, list(cells))
        return note

    def _uid(self, entry: Entry) -> str:
        if entry.cell.id not in self._uids:
            self._uids[entry.cell.id] = _uid(self._plan.store, entry)
        return self._uids[entry.cell.id]


def _uid(store: Store | StoreSnapshot, entry: Entry) -> str:
    """The same for every try at one artifact; another once the artifact has been withdrawn (a
    forced rerun).
    """
    withdrawn = store.last_record(entry.cell.uses, entry.fingerprint).withdrawn
    return f"{entry.cell.uses}-{entry.fingerprint}" + (f"-{withdrawn}" if withdrawn else "")


def comparison(
    cells: Sequence[Cell], figures: Mapping[str, Mapping[str, Any]], run_ids: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """The cells of a matrix side by side, as the head and the rows of a table: what they differ in,
    their figures, links.

    Of many figures the first. `figures` and `run_ids` are by cell id.
    """
    axes, found = (
        list(cells[0].axes),
        dict.fromkeys(name for cell in cells for name in figures[cell.id]),
    )
    names = [name for name in found if name not in axes][:MOST_FIGURES]
    head = [f"| {GAP.join([*axes, *names, 'run'])} |", "|---" * (len(axes) + len(names) + 1) + "|"]
    rows = []
    for cell in cells:
        values = [number(figures[cell.id].get(name)) for name in names]
        link = _link("open", run_ids.get(cell.id, ""))
        rows.append(f"| {GAP.join([*map(str, cell.axes.values()), *values, link])} |")
    return head, rows


def fitting(head: Sequence[str], rows: Sequence[str]) -> tuple[str, int]:
    """As many whole rows of a table as a tag holds, and for how many there is no room: a last
    line says that.
    """
    text = "\n".join([*head, *rows])
    if len(text) <= LONGEST_TAG:
        return text, 0
    last = "\n\nand {} more; " + CELLS + " in the artifacts of this run lists all jobs"
    room = LONGEST_TAG - len("\n".join(head)) - len(last.format(len(rows)))
    shown = bisect_right(list(accumulate(1 + len(row) for row in rows)), room)
    return "\n".join([*head, *rows[:shown]]) + last.format(len(rows) - shown), len(rows) - shown


def _plain(value: Any) -> Any:
    """A value as JSON has it; text for what it has not (NaN, an infinity)."""
    known = (
        value is None
        or isinstance(value, int | str)
        or (isinstance(value, float) and math.isfinite(value))
    )
    return value if known else str(value)


def cell_note(record: ArtifactRecord, store: Store, uses: Mapping[str, str]) -> str:
    """The description of a cell's run: its figures, and links to the runs that made its inputs.

    `uses`: the kind of stage by fingerprint. A cell's name does not tell it where the entry has
    `uses:`.
    """
    figures = [
        f"| {name} | {number(value)} |"
        for name, value in record.summary.items()
        if isinstance(value, int | float)
    ]
    lines = ["| metric | |", "|---|---|", *figures, ""] if figures else []
    for cell, print_ in sorted(record.inputs.items()):
        made = store.record(uses[print_], print_)
        lines.append(f"- input: {_link(cell, (made and made.mlflow_run_id) or '')}")
    return "\n".join([*lines, "", f"fingerprint: `{record.fingerprint}`"])


def _link(cell: str, run_id: str) -> str:
    """A link that MLflow's pages open, where the run's id is known."""
    return (
        f"[{cell.replace('[', '(').replace(']', ')')}](#/runs/{run_id})"
        if len(run_id) == RUN_ID_LENGTH
        else cell
    )


def _origin(source: str) -> dict[str, str]:
    """The tags behind MLflow's columns User and Source."""
    commit = git_commit()
    return {
        "mlflow.user": user_name(), "mlflow.source.name": source, "mlflow.source.type": "LOCAL",
        **({"mlflow.source.git.commit": commit} if commit else {}),
    }  # fmt: skip
