"""Exports of a small model: their files can be checked, and the model can be made again."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from gpt1.train.checkpoint import content_sha256, file_sha256
from gpt1.train.trainer import open_pretrainer
from gpt1.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gpt1.weights.manifest import read_manifest
from gpt1.weights.store import load_model
from pipeline.planning.planner import Plan
from pipeline.workflow import user_code
from stages import _ray_train
from stages._exported import _lineage
from stages.contract import Context
from tests.conftest import write
from tests.gpt1 import weight_samples as samples
from tests.pipeline.inline import output, plan_of, run_inline, write_rte
from tests.pipeline.inprocess import gpt1, refused, said
from tests.stages.runs import given, library, made

WORKFLOW = """
stages:
  ingest: {with: {source: FOLDER/books, num_partitions: 2}}
  clean: {needs: [ingest]}
  split: {needs: [clean], with: {held_out: 0.3, seed: 3, near_duplicates: false}}
  vocabulary: {needs: [clean, split], with: {num_merges: 60}}
  shard: {needs: [clean, split, vocabulary]}
  pretrain:
    needs: [shard, vocabulary]
    with: {layers: 1, width: 16, heads: 2, context: 16, batch_size: 4, micro_batch_size: 2,
           max_steps: 6, warmup_steps: 1, lr: 1e-3, validate_every: 0, sample_tokens: 0,
           snapshot_every: 4, snapshot_steps: log, debug: {log_every: 2, preflight: false}}
    matrix: {model: [gpt]}
  export: {needs: [ingest, clean, split, vocabulary, shard, pretrain]}
"""
CELL, STEPS = "pretrain[model=gpt]", (0, 1, 2, 4)
JOBS = ["ingest", "clean", "split", "vocabulary", "shard", "pretrain"]
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module", autouse=True)
def without_ray() -> Iterator[None]:
    """Pre-training runs in this process, as one rank."""

    def train_here(settings: Any, anywhere: Any, files: Any, context: Context) -> None:
        here = _ray_train.on_this_host(anywhere, files, context.store)
        open_pretrainer(settings, here, context).train()

    with Patch.context() as patch:
        patch.setattr(_ray_train, "train_on_ray", train_here)
        yield


class Made(NamedTuple):
    """A run of the workflow, and the export of its model with all snapshots."""

    plan: Plan
    store: Path
    export: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("exports")
    library(folder / "books")
    file, store, export = folder / "w.yaml", folder / "store", folder / "export"
    file.write_text(WORKFLOW.replace("FOLDER", str(folder)))
    plan = plan_of(file, store)
    run_inline(plan)
    said("export", "hf", CELL, "--all-snapshots", "--out", export, "--store", store)
    return Made(plan, store, export)


@pytest.fixture
def copy(run: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.export, tmp_path / "copy"))


def test_each_snapshot_has_a_folder_with_its_weights(run: Made) -> None:
    """The last weights are in the export's own folder."""
    folders = {f"step-{step:06d}": f"snapshots/step-{step:08d}.safetensors" for step in STEPS}
    assert sorted(path.name for path in run.export.glob("step-*")) == list(folders)
    job, ids = made(run.plan, CELL), torch.arange(12)[None]
    for folder, name in {**folders, ".": "model.safetensors"}.items():
        ours, theirs = load_model(output(job, name)), load_checkpoint(run.export / folder).model
        assert torch.equal(ours.eval()(ids), theirs(ids))
    card = (run.export / "README.md").read_text()
    assert "form: `step-000000`, `step-000001`, `step-000002`, `step-000004`." in card
    assert "gpt1 diff --with FOLDER" in card
    refused("no snapshots; expected", "export", "hf", f"{CELL}@4", "--all-snapshots", "--out",
            run.store / "x", "--store", run.store)  # fmt: skip


@pytest.mark.slow
def test_transformers_loads_a_snapshot(run: Made) -> None:
    from transformers import OpenAIGPTLMHeadModel

    theirs = OpenAIGPTLMHeadModel.from_pretrained(run.export, subfolder="step-000002")
    tokens = load_checkpoint(run.export / "step-000002").model.state_dict()["tokens_embed.weight"]
    assert torch.equal(theirs.transformer.tokens_embed.weight, tokens)


def test_one_form_of_manifest(run: Made) -> None:
    """Of the export of the stage, of that of the command, and of a snapshot's folder."""
    by_stage = output(made(run.plan, "export"), "hf/manifest.json").parent
    for folder in (by_stage, run.export, run.export / "step-000004"):
        found = json.loads((folder / "manifest.json").read_text())
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*")}
        expected = {name: file_sha256(path) for name, path in files.items() if path.is_file()}
        del expected["manifest.json"]
        assert {name: one["sha256"] for name, one in found["files"].items()} == expected
        assert [job["name"] for job in found["jobs"]] == JOBS
        own = run.plan.entries[CELL]
        last = found["jobs"][-1]
        assert (last["cell"], last["fingerprint"]) == (CELL, own.fingerprint)
        assert last["digest"] == made(run.plan, CELL).digest
        assert {"python", "torch", "gpt1"} <= last["packages"].keys()
        assert (folder / "workflow.yaml").read_text().count(str(run.store.parent)) == 0
        assert said("verify", folder) == "0 problems found\n"


DAMAGE: dict[str, Any] = {
    "model.safetensors": ("damaged", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!")),
    "step-000001/config.json": ("missing", Path.unlink),
    "step-000001/vocab.json": ("extra", lambda path: path.write_text("{}")),
    "config.json": ("damaged", lambda path: (path.unlink(), os.mkfifo(path))),
    "manifest.json": ("damaged", lambda path: path.write_text(path.read_text().replace("a", "b"))),
    "workflow.yaml": ("damaged", lambda path: (path.unlink(), path.mkdir())),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_verify_names_what_is_damaged_missing_or_extra(name: str, copy: Path) -> None:
    kind, damage = DAMAGE[name]
    damage(copy / name)
    ended = gpt1("verify", copy)
    assert (ended.status, ended.out.startswith(f"{kind}: {name}: ")) == (1, True)
    assert ended.out.endswith("\n1 problem found\n")
    found = gpt1("verify", copy, "--json")
    assert (found.status, [one["key"] for one in json.loads(found.out)]) == (1, [name])


def test_a_publisher_edits_the_card_and_adds_what_people_read(copy: Path) -> None:
    with (copy / "README.md").open("a") as card:
        card.write("license_name: mine")
    for name in ("LICENSE", "report.html", "results.json"):
        (copy / name).write_text("text")
    ended = gpt1("verify", copy)
    assert re.fullmatch("edited: README.md: found sha256 .*\n0 problems found\n", ended.out)
    assert ended.status == 0


def test_a_pipe_is_no_manifest(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    os.mkfifo(copy / "manifest.json")
    damaged = "manifest.json: is damaged; download or export the folder again"
    assert gpt1("verify", copy).out.endswith(f"{damaged}\n1 problem found\n")
    refused("manifest.json: is damaged", "init", copy / "new", "--from", copy)


def test_what_a_manifest_of_a_stranger_may_do(run: Made, copy: Path) -> None:
    """Its names lead nowhere else, and are one line each where they are shown."""
    file = copy / "manifest.json"
    content = json.loads(file.read_bytes())

    def sign() -> None:
        del content["sha256"]
        content["sha256"] = content_sha256(content)
        file.write_text(json.dumps(content))

    content["jobs"][0] |= {"name": "x\n7 of 7 jobs have the content", "stage": "none"}
    content["jobs"][1]["identity"]["with"]["x"] = "1\n7 of 7"
    sign()
    assert "\n7 of 7" not in said("diff", "--with", copy, "--store", run.store)
    content["files"]["../outside"] = content["files"]["config.json"]
    sign()
    assert gpt1("verify", copy).out.startswith("damaged: manifest.json: ")


def test_a_folder_has_a_manifest_without_jobs(run: Made, copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said("export", "hf", copy / "step-000001", "--out", out)
    found = read_manifest(out)
    assert (found.model, found.jobs) == ("step-000001", ())
    assert said("verify", out) == "0 problems found\n"
    assert not (out / "workflow.yaml").exists()
    refused("without the records of the jobs", "diff", "--with", out, "--store", run.store)


def test_hidden_files_do_not_count_and_other_folders_are_refused(copy: Path) -> None:
    (copy / ".cache").mkdir()
    (copy / ".cache" / "lock").touch()
    (copy / ".gitattributes").touch()
    assert said("verify", copy) == "0 problems found\n"
    (copy / "manifest.json").unlink()
    refused("no such file; expected a folder written by `gpt1 export hf`", "verify", copy)
    refused("no such file; expected a folder", "init", copy / "new", "--from", copy)


def started(export: Path, folder: Path, source: Path | None) -> Path:
    """A project from an export, with its books; returns its workflow."""
    said("init", folder, "--from", export)
    if source:
        shutil.copytree(source, folder / "books")
    return folder / "workflow.yaml"


def compare(run: Made, store: Path) -> dict[str, list[str]]:
    """The lines of `gpt1 diff` by job, and how many jobs agree."""
    ended = gpt1("diff", "--with", run.export, "--json", "--store", store).json()
    return {f"{row['cell']}: {row['how']}": row["changes"] for row in ended["cells"]}


def test_the_model_is_made_again_from_its_export(
    run: Made, tmp_path: Path, monkeypatch: Patch
) -> None:
    """With the fingerprints and the bytes of the first."""
    project = tmp_path / "project"
    file = started(run.export, project, run.store.parent / "books")
    monkeypatch.chdir(project)
    again = plan_of(file, project / "store")
    assert [entry.fingerprint for entry in again.entries.values()] == [
        run.plan.entries[cell].fingerprint for cell in (*JOBS[:-1], CELL)
    ]
    compare_before = gpt1("diff", "--with", run.export, "--store", run.store)
    assert compare_before.out.endswith("\n6 of 6 jobs have the content of the export\n")
    again = plan_of(file, project / "store", f"ingest.source={project / 'books'}")
    run_inline(again)  # a reader that is left of another test knows another folder
    assert made(again, "pretrain").digest == made(run.plan, CELL).digest
    assert compare(run, project / "store") == {f"{name}: same content": [] for name in JOBS}
    spec = yaml.safe_load(file.read_text())["stages"]["pretrain"]
    assert spec["with"]["debug"]["log_every"] == 2
    assert spec["with"].keys() | spec["with"]["debug"].keys() > {"seed", "checkpoint_every"}
    for name in ("workflow.yaml", "SOURCES.md"):
        refused(f"{name}: already exists and was not", "init", project, "--from", run.export)
        (project / name).unlink()


def test_another_book_is_named_with_both_digests(run: Made, tmp_path: Path) -> None:
    """In the list of sources, and by `gpt1 diff`, with the jobs that it changes."""
    project, books = tmp_path / "project", run.store.parent / "books"
    file = started(run.export, project, books)
    name = "author 0/book_3.txt"
    note, expected = (project / "SOURCES.md").read_text(), file_sha256(books / name)
    first = "author 0/book_0.txt"
    assert f"`ingest.source=books`\n\n```\n{file_sha256(books / first)}  {first}\n" in note
    assert f"\n{expected}  {name}\n" in note
    assert note.count("\n## ") == 2, "only ingest has sources"
    assert re.search("\n- torch .*\n- commit [0-9a-f]{7}", note)
    changed = project / "books" / name
    changed.write_text(changed.read_text().replace("sea", "lake"))
    more = project / "books" / "more.txt"
    more.write_text("a book")
    (project / "books" / "zz.txt").unlink()
    plan = plan_of(file, project / "store", f"ingest.source={project / 'books'}")
    run_inline(plan)
    found = compare(run, project / "store")
    assert found["ingest: other content"][:3] == [
        f"file {name}: expected sha256 {expected}, found sha256 {file_sha256(changed)}",
        f"file more.txt: expected no such file, found sha256 {file_sha256(more)}",
        f"file zz.txt: expected sha256 {file_sha256(books / 'zz.txt')}, found no such file",
    ]
    assert "input clean changed" in found["shard: other content"]
    assert [name for name in found if name.startswith("pretrain: other content")]
    (project / "workflow.yaml").write_text("stages: {ingest: {with: {source: books}}}")
    plan_only = plan_of(project / "workflow.yaml", tmp_path / "new", f"ingest.source={books}")
    run_inline(plan_only)
    words = gpt1("diff", "--with", run.export, "--store", tmp_path / "new").out
    assert "\nclean: no such job in this run\n" in words


GIVEN = """
stages:
  published: {uses: pretrained, with: {checkpoint: FOLDER/ours}}
  task_data: {uses: my.data, with: {source: FOLDER}, matrix: {task: [rte]}}
  finetune:
    needs: [published, task_data]
    with: {task: rte, epochs: 1, batch_size: 8, keep_model: true}
    matrix: {variant: [full]}
"""


OWN_STAGE = """
from stages.task_data import TaskData

class Data(TaskData):
    provides = ("task_data",)

STAGE = Data()
"""


def test_a_fine_tuned_model_has_its_own_jobs_alone(tmp_path: Path) -> None:
    """One of them uses a stage of the user's, which is beside the workflow."""
    file, store, ours = tmp_path / "w.yaml", tmp_path / "store", tmp_path / "ours"
    ours.mkdir()
    write(tmp_path, {"my/data.py": OWN_STAGE})
    write_rte(tmp_path, 32)
    save_checkpoint(ours, Checkpoint(samples.model(context=32), samples.vocabulary()))
    file.write_text(GIVEN.replace("FOLDER", str(tmp_path)))
    run_inline(plan_of(file, store))
    export, full = tmp_path / "export", "finetune[variant=full]"
    said("export", "hf", full, "--out", export, "--store", store, "--file", file)
    jobs = {job.name: job for job in read_manifest(export).jobs}
    assert list(jobs) == ["published", "task_data", "finetune"]
    assert [jobs["task_data"].cell, jobs["finetune"].cell] == ["task_data[task=rte]", full]
    assert jobs["published"].places == {"checkpoint": "ours"}
    shutil.copytree(tmp_path / "my", export / "my")
    again = plan_of(export / "workflow.yaml", store, f"published.checkpoint={ours}",
                    f"task_data.source={tmp_path}")  # fmt: skip
    assert not again.to_run, "the same fingerprints"
    user_code.install(user_code.NONE)
    ended = gpt1("export", "hf", full, "--out", tmp_path / "x", "--store", store)
    assert f"{full}: no workflow.yaml, as these are not at hand: task_data[task=rte]" in ended.err
    assert not (tmp_path / "x" / "workflow.yaml").exists()
    refused("has no workflow.yaml: its model", "init", tmp_path / "new", "--from", tmp_path / "x")


def test_what_only_the_stage_requires_is_missing_too(tmp_path: Path) -> None:
    """A variant without pre-training has no such input, and a workflow of it is refused."""
    about = {"identity": {"files": {}}, "inputs": {}}
    own = replace(given(tmp_path, "finetune"), provenance=about)
    assert _lineage(own, [own]) == ([own], ["pretrain", "task_data", "vocabulary"])
