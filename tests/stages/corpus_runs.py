"""Running the stages from books to the audit on a store in a temporary folder, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.plan import Plan
from stages.contract import Artifact
from tests.pipeline.inline import plan_of, run_inline

WORKFLOW = Path(__file__).parent / "audit_workflow.yaml"
PROSE = "The old man went down to the sea, and nobody saw that he was gone until the evening of day {} in the year {}."
FRENCH = "Il a dit que la vie est belle, et que les hommes ne sont pas tous mauvais dans le monde de ce temps {}."


def run(store: Path, *assignments: str) -> Plan:
    """Plan and run everything that is not done."""
    plan = plan_of(WORKFLOW, store, *assignments)
    run_inline(plan)
    return plan


def artifact(plan: Plan, stage: str) -> Artifact:
    """A stage's published artifact."""
    found = plan.store.artifact(stage, plan.entries[stage].fingerprint)
    assert found is not None
    return found


def parts(plan: Plan, stage: str) -> dict[str, int]:
    """How many parts were made and reused."""
    found = plan.store.record(stage, plan.entries[stage].fingerprint)
    assert found is not None
    return dict(found["parts"])


def lines(made: Artifact, folder: str) -> list[dict[str, Any]]:
    """The objects of all JSON Lines files under a folder."""
    return [json.loads(line) for file in made.under(f"{folder}/") for line in file.path.read_text().splitlines()]


def library(folder: Path) -> Path:
    """Twelve books with credits and a table of contents, a copy with other quotes, a French one, a leaflet, and a garbled one."""
    folder.mkdir()
    for number in range(12):
        chapters = [f"CHAPTER {part}\n\n" + "\n\n".join(PROSE.format(10 * part + n, number) for n in range(9)) for part in range(5)]
        head = f'Produced by Somebody\n\n\nBOOK {number}\n\n"Well," said _he_.\n\n'
        (folder / f"book_{number:02}.txt").write_text(head + "\n\n".join(chapters))
    original = (folder / "book_00.txt").read_text()
    (folder / "copy.txt").write_text(original.replace('"Well,"', "“Well,”").replace("_he_", "he"))
    (folder / "french.txt").write_text("\n\n".join(FRENCH.format(n) for n in range(60)))
    (folder / "leaflet.txt").write_text("too short")
    (folder / "figures.txt").write_text("| 12 | 34.5 | 17 % |\n\n" * 400)
    return folder
