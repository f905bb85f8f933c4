"""An exported folder: transformers' files, a model card, the workflow that makes the model again,
and the manifest of them all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.report.dag import stage_of
from gpt1.settings import DEBUG, debug_keys
from gpt1.terminal import one_line
from stages.contract import Artifact
from stages.report import PLACES, public_place, stage_named

if TYPE_CHECKING:
    from gpt1.report.model_card import Publication
    from gpt1.report.sources import Source
    from gpt1.weights.checkpoint import Checkpoint
    from gpt1.weights.manifest import ExportedJob

HEADER = """\
# yaml-language-server: $schema=workflow.schema.json
# The jobs that made {model}, with every setting; of paths the last name.
"""


def write_export(
    folder: Path, model: str, found: Checkpoint, behind: Sequence[Artifact],
    sources: Sequence[Source], publication: Publication, info: Callable[[str], None],
    snapshots: Sequence[int] = (),
) -> list[Path]:
    """Write the export of `model`, and return its files.

    `behind`: the artifacts that may have led to the model, its own first; none where it is of no
    store. `sources`: what the card is about. `snapshots`: the steps whose folders are there
    already. UserError for the LSTM.
    """
    from gpt1.report.model_card import model_card
    from gpt1.weights.hf import export
    from gpt1.weights.manifest import WORKFLOW_FILE, write_manifest

    jobs, missing = _lineage(behind[0], behind) if behind else ([], [])
    if missing:
        info(f"{model}: no {WORKFLOW_FILE}, as these are not at hand: {', '.join(missing)}")
    workflow = workflow_text(model, jobs) if jobs and not missing else ""
    card = model_card(
        found.model.config, found.vocabulary, sources, found.tuned, publication,
        snapshots=snapshots, workflow=bool(workflow),
    )  # fmt: skip
    files = export(folder, found.model, found.vocabulary, card, found.tuned)
    if workflow:
        files.append(folder / WORKFLOW_FILE)
        files[-1].write_text(workflow, encoding="utf-8")
    return [*files, write_manifest(folder, model, _exported(jobs))]


def _lineage(own: Artifact, known: Sequence[Artifact]) -> tuple[list[Artifact], list[str]]:
    """`own` and all of `known` that it was made from, needed ones first; and what a workflow of
    them would lack.
    """
    by_fingerprint = {one.fingerprint: one for one in known if one.provenance.get("identity")}
    found: dict[str, Artifact] = {}
    missing: set[str] = set()

    def visit(job: Artifact) -> None:
        for cell, fingerprint in sorted(job.provenance["inputs"].items()):
            if fingerprint not in by_fingerprint:
                missing.add(cell)
            elif fingerprint not in found:
                visit(by_fingerprint[fingerprint])
        found[job.fingerprint] = job

    if own.fingerprint in by_fingerprint:
        visit(own)
    stages = [stage_named(job.stage) for job in found.values()]
    kinds = {job.stage for job in found.values()}.union(*(stage.provides for stage in stages))
    # a job may do without an input that its stage must be given
    required = {kind for stage in stages for kind in stage.requires}
    return list(found.values()), sorted(missing or required - kinds)


def workflow_text(model: str, jobs: Sequence[Artifact]) -> str:
    """workflow.yaml with a stage for each of the `jobs`: its fingerprints are theirs."""
    import yaml

    names, stages = _names(jobs), dict[str, Any]()
    for job in jobs:
        name, settings = names[job.fingerprint], {**job.settings, **_places(job)}
        if debug := sorted(debug_keys(stage_named(job.stage).settings_model) & settings.keys()):
            settings[DEBUG] = {key: settings.pop(key) for key in debug}
        resources = job.provenance["resources"].items()
        spec = {
            "uses": "" if job.stage == name else job.stage,
            "needs": sorted(names[print_] for print_ in job.provenance["inputs"].values()),
            "with": settings,
            "resources": {key: value for key, value in resources if value is not None},
        }
        stages[name] = {key: value for key, value in spec.items() if value}
    text = yaml.safe_dump({"stages": stages}, sort_keys=False, allow_unicode=True, width=100)
    return HEADER.format(model=one_line(model)) + text


def _exported(jobs: Sequence[Artifact]) -> list[ExportedJob]:
    """The jobs as the manifest has them."""
    from gpt1.weights.manifest import ExportedJob

    names = _names(jobs)
    of_record = ("identity", "seconds", "code", "git_commit", "packages")
    return [
        ExportedJob(
            name=names[job.fingerprint], cell=job.cell, stage=job.stage,
            fingerprint=job.fingerprint, digest=job.digest, places=_places(job),
            summary=dict(job.summary), **{key: job.provenance[key] for key in of_record},
        )
        for job in jobs
    ]  # fmt: skip


def _names(jobs: Sequence[Artifact]) -> Mapping[str, str]:
    """What workflow.yaml calls each job, by fingerprint: its stage, with its axes where there are
    several of one stage.
    """
    count = Counter(stage_of(job.cell) for job in jobs)
    return {
        job.fingerprint: node
        if count[node := stage_of(job.cell)] == 1
        else re.sub("[^a-z0-9]+", "_", job.cell.lower()).strip("_")
        for job in jobs
    }


def _places(job: Artifact) -> dict[str, Any]:
    """The settings that say where source files are, without what is this machine's own."""

    def public(place: Any) -> Any:
        return list(map(public, place)) if type(place) is list else public_place(place) or job.stage

    return {key: public(place) for key in PLACES if (place := job.settings.get(key))}
