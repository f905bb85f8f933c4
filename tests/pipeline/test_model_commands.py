"""The commands about models, as a user runs them: on folders, and on the cells of a store."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from gpt1.errors import UserError
from gpt1.tasks.example import Example
from gpt1.tasks.table import task_named
from gpt1.text.encoder import TextEncoder
from gpt1.text.vocabulary import Vocabulary
from gpt1.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gpt1.weights.openai import write_openai
from pipeline.cli import app
from pipeline.context import Job, StageContext
from pipeline.events import PrintReporter
from pipeline.last_run import LAST_RUN
from pipeline.store import Store
from stages.contract import Artifact, OutputFile, Resources
from tests.gpt1 import weight_samples as samples
from tests.pipeline.inline import plan_of, run_inline

TEXT = "the mouse ate the lot, then the cat ate the mouse.\nthe end.\n"


def gpt1(*words: object) -> str:
    """What the command prints; UserError goes through, as `main` would catch it."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def as_json(*words: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gpt1(*words, "--json").splitlines()]


def publish(
    store: Store, stage: str, cell: str, files: dict[str, bytes], settings: dict[str, Any], inputs: Sequence[Artifact]
) -> Artifact:
    job = Job(store, stage, cell, f"{stage}0", {}, settings, tuple(inputs), (), Resources(), cluster=False)
    context = StageContext(job, PrintReporter(cell))
    for name, content in files.items():
        context.output(name).write_bytes(content)
    context.publish()
    found = store.artifact(stage, f"{stage}0")
    assert found is not None
    return found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """vocabulary, pretrain (with a snapshot) and a fine-tuned cell, as the stages leave them."""
    target, scratch = Store.at(tmp_path / "store"), tmp_path / "scratch"
    tuned = samples.tuned(task_named("rte"))
    files: dict[str, dict[str, bytes]] = {}
    models = {"model": samples.model(5), "snap": samples.model(6), "tuned": tuned.model.gpt}
    for name, model in models.items():
        one = Checkpoint(model, samples.vocabulary(), tuned if name == "tuned" else None)
        files[name] = {path.name: path.read_bytes() for path in save_checkpoint(scratch / name, one)}
    names = samples.vocabulary().file_names
    vocabulary = publish(target, "vocabulary", "vocabulary", {name: files["model"][name] for name in names}, {}, ())
    weights = {"model.safetensors": files["model"]["model.safetensors"], "config.json": files["model"]["config.json"]}
    weights["snapshots/step-00000010.safetensors"] = files["snap"]["model.safetensors"]
    pretrain = publish(target, "pretrain", "pretrain", weights, {"steps": 20, "max_lr": 1e-3}, (vocabulary,))
    kept = {name: content for name, content in files["tuned"].items() if name not in names}
    publish(target, "finetune", "finetune[task=rte,seed=1]", kept, {"task": "rte"}, (pretrain, vocabulary))
    made = {"vocabulary": "vocabulary", "pretrain": "pretrain", "finetune[task=rte,seed=1]": "finetune"}
    last_run_of(target, {cell: f"{kind}/{kind}0" for cell, kind in made.items()})
    return target.root


def last_run_of(store: Store, cells: dict[str, str]) -> None:
    """Leave the record of a last run that had these cells."""
    asked = {"file": "workflow.yaml", "resolved": "workflow.yaml", "profile": "demo", "assignments": []}
    store.leave(store.root, LAST_RUN, {**asked, "cells": list(cells.items())})


def test_from_openai_and_back(tmp_path: Path) -> None:
    write_openai(tmp_path / "openai", samples.model(), samples.vocabulary())
    said = gpt1("import", "openai", tmp_path / "openai", "--out", tmp_path / "ours")
    assert f"{samples.model().config.parameters():,} parameters" in said
    gpt1("export", "openai", tmp_path / "ours", "--out", tmp_path / "again")
    assert all(file.read_bytes() == (tmp_path / "again" / file.name).read_bytes() for file in (tmp_path / "openai").iterdir())
    gpt1("export", "hf", tmp_path / "ours", "--out", tmp_path / "hf")
    gpt1("import", "hf", tmp_path / "hf", "--out", tmp_path / "back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (tmp_path / "ours" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_export_and_import_write_what_the_umask_allows(umask: int, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "ours", Checkpoint(samples.model(), samples.vocabulary()))
    before = os.umask(umask)
    try:
        gpt1("export", "hf", tmp_path / "ours", "--out", tmp_path / "hf")
        gpt1("import", "hf", tmp_path / "hf", "--out", tmp_path / "back")
    finally:
        os.umask(before)
    for folder in (tmp_path / "hf", tmp_path / "back"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
        modes = {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
        assert modes == {0o666 & ~umask}


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    write_openai(tmp_path / "openai", samples.model(), samples.vocabulary())
    with pytest.raises(UserError, match="exists and is not empty"):
        gpt1("import", "openai", tmp_path / "openai", "--out", tmp_path / "openai")
    (tmp_path / "openai" / "params_3.npy").unlink()
    with pytest.raises(UserError, match=r"params_3\.npy"):
        gpt1("import", "openai", tmp_path / "openai", "--out", tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["openai"]


def test_generate_from_the_store_streams_what_it_returns(store: Path) -> None:
    common = ("--tokens", 12, "--temperature", 0, "--store", store)
    streamed = gpt1("generate", "-p", "the cat", *common).strip()
    rows = as_json("generate", "-p", "the cat", "-p", "a mouse ate", *common)
    assert streamed == f"the cat {rows[0]['text']}".strip()
    assert [row["prompt"] for row in rows] == ["the cat", "a mouse ate"]
    assert gpt1("generate", "pretrain@10", "-p", "the cat", *common).strip() != streamed
    drawn = [gpt1("generate", "-p", "the", "--seed", seed, "--tokens", 30, "--store", store) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert gpt1("generate", "-p", "the cat", "--beams", 3, "--tokens", 5, "--store", store).startswith("the cat ")


def test_predict_one_example_and_a_file(store: Path, tmp_path: Path) -> None:
    tuned = samples.tuned(task_named("rte"))
    expected = tuned.predict([Example("1", ("the cat ate", "it ate"))], TextEncoder(samples.vocabulary()).encode)[0]
    said = gpt1("predict", "rte", "-t", "the cat ate", "-t", "it ate", "--store", store)
    assert said.split("\t")[:2] == ["1", expected.name]
    (tmp_path / "pairs.tsv").write_text("the cat ate\tit ate\nno\tyes\n")
    (tmp_path / "pairs.jsonl").write_text('{"id": "x", "texts": ["the cat ate", "it ate"]}\n')
    rows = as_json("predict", "rte", "--file", tmp_path / "pairs.tsv", "--store", store)
    assert [row["id"] for row in rows] == ["1", "2"]
    assert rows[0]["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    [row] = as_json("predict", "rte", "--file", tmp_path / "pairs.jsonl", "--store", store)
    assert (row["id"], row["label"]) == ("x", expected.name)


@pytest.mark.parametrize("stride", [16, 8, 3, 1])
def test_perplexity_is_the_definition(stride: int, store: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text("the cat ate.")
    rows = as_json("perplexity", tmp_path / "a.txt", tmp_path / "b.txt", "--stride", stride, "--store", store)
    model, nats, count = samples.model(5), [], []
    for text in (TEXT, "the cat ate."):
        ids = TextEncoder(samples.vocabulary()).encode(text)
        total = 0.0
        for target in range(1, len(ids)):
            start = 0 if target <= 16 else -(-(target - 16) // stride) * stride  # the first window that has it as a target
            with torch.no_grad():
                logits = model.vocabulary_logits(model(torch.tensor([ids[start:target]])))[0, -1]
            total -= float(torch.log_softmax(logits, -1)[ids[target]])
        nats.append(total)
        count.append(len(ids) - 1)
    sizes = [len(TEXT), len("the cat ate.")]
    expected = [*zip(nats, count, sizes, strict=True), (sum(nats), sum(count), sum(sizes))]
    assert [row["perplexity"] for row in rows] == pytest.approx([math.exp(n / c) for n, c, _ in expected], rel=1e-4)
    assert [row["bits_per_byte"] for row in rows] == pytest.approx([n / math.log(2) / s for n, _, s in expected], rel=1e-4)
    assert rows[-1]["file"] == "all"


def test_the_card_of_a_cell_names_its_settings_and_commit(store: Path, tmp_path: Path) -> None:
    gpt1("export", "hf", "pretrain", "--out", tmp_path / "hf", "--store", store)
    gpt1("export", "hf", "pretrain@10", "--out", tmp_path / "snapshot", "--store", store, "--license", "mit")
    assert "license: mit" in (tmp_path / "snapshot" / "README.md").read_text()
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "| updates |" not in card  # the summary had none
    assert "| `max_lr` | 0.001 |" in card
    assert "license:" not in card
    assert re.search(r"\| commit \| [0-9a-f]{7}", card)
    gpt1("export", "hf", "finetune[task=rte,seed=1]", "--out", tmp_path / "tuned", "--store", store)
    tuned = (tmp_path / "tuned" / "README.md").read_text()
    assert "fine-tuned for RTE" in tuned
    assert "| pretrain |" in tuned  # among the cells behind it
    assert load_checkpoint(tmp_path / "tuned").tuned is not None


def test_a_card_has_no_scores_of_other_runs(store: Path, tmp_path: Path) -> None:
    record = json.loads((store / "finetune" / "finetune0" / "record.json").read_text())
    (store / "finetune" / "older").mkdir()
    older = {**record, "fingerprint": "older", "cell": "finetune[task=rte,seed=9]"}
    (store / "finetune" / "older" / "record.json").write_text(json.dumps(older))
    gpt1("export", "hf", "pretrain", "--out", tmp_path / "hf", "--store", store)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "seed=1" in card
    assert "seed=9" not in card


def test_a_bare_name_means_the_transformer_of_a_matrix(store: Path) -> None:
    record = json.loads((store / "pretrain" / "pretrain0" / "record.json").read_text())
    (store / "pretrain" / "pretrain0" / "record.json").unlink()
    # The LSTM is newer, and has no files: taking it would fail.
    for model, files, when in (("gpt", record["files"], 1.0), ("lstm", {}, 2.0)):
        folder = store / "pretrain" / model
        folder.mkdir()
        settings = {**record["settings"], "model": model}
        made = {**record, "cell": f"pretrain[model={model}]", "settings": settings, "files": files, "finished": when}
        (folder / "record.json").write_text(json.dumps(made))
    cells = {f"pretrain[model={model}]": f"pretrain/{model}" for model in ("lstm", "gpt")}
    last_run_of(Store.at(store), {"vocabulary": "vocabulary/vocabulary0", **cells})
    [row] = as_json("generate", "pretrain", "-p", "the", "--store", store)
    [same] = as_json("generate", "pretrain[model=gpt]", "-p", "the", "--store", store)
    assert row == same


def test_a_bare_name_of_several_cells_is_refused(store: Path) -> None:
    record = json.loads((store / "finetune" / "finetune0" / "record.json").read_text())
    folder = store / "finetune" / "another"
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps({**record, "cell": "finetune[task=rte,seed=2]"}))
    cells = {"finetune[task=rte,seed=1]": "finetune/finetune0", "finetune[task=rte,seed=2]": "finetune/another"}
    last_run_of(Store.at(store), cells)
    with pytest.raises(UserError, match=r"'finetune' could mean 2 cells; name one of finetune\[task=rte,seed=1\], finetune"):
        gpt1("export", "hf", "finetune", "--out", store.parent / "out", "--store", store)


def test_models_are_those_of_the_last_run_not_the_newest(store: Path) -> None:
    target, record = Store.at(store), json.loads((store / "pretrain" / "pretrain0" / "record.json").read_text())
    files = {name: (store / entry["path"]).read_bytes() for name, entry in record["files"].items()}
    files["model.safetensors"] = files["snapshots/step-00000010.safetensors"]
    folder = target.new_attempt("pretrain", "newer")
    made = {}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        made[name] = OutputFile(name, folder / name, len(content), "0" * 64)
    target.publish(
        "pretrain", "newer", made, {name: record[name] for name in ("cell", "settings", "summary", "inputs", "finished")}
    )
    words = ("generate", "-p", "the cat", "--tokens", 12, "--temperature", 0, "--store", store)
    first = gpt1(*words)
    last_run_of(target, {"pretrain": "pretrain/newer"})
    assert gpt1(*words) != first
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.stderr == "gpt1: using profile demo of workflow.yaml (the store's last run)\n"
    last_run_of(target, {"pretrain": "pretrain/not-made"})
    with pytest.raises(
        UserError, match=r"pretrain: no such folder, and pretrain not made in profile demo .*make it with `gpt1 run`"
    ):
        gpt1(*words)
    (store / LAST_RUN).unlink()
    with pytest.raises(UserError, match="no run is recorded in this store"):
        gpt1(*words)


def test_without_weights_the_message_says_how_to_keep_them(store: Path) -> None:
    path = store / "finetune" / "finetune0" / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "files": {}}))
    with pytest.raises(UserError, match=r"1 fine-tuned cell of 'rte', none with its weights .*--set finetune\.keep_model=true"):
        gpt1("predict", "rte", "-t", "a", "-t", "b", "--store", store)
    with pytest.raises(UserError, match=r"model\.safetensors was not kept \(finetune: `keep_model: true`\)"):
        gpt1("predict", "rte", "-t", "a", "-t", "b", "--model", "finetune", "--store", store)


REFUSED = {
    "no such cell": (
        ("generate", "pretrian"),
        "no such folder, and no cell 'pretrian' in profile demo of .*; expected one of pretrain, finetune\\[task=rte,seed=1\\]",
    ),
    "license": (("export", "hf", "pretrain", "--out", "out", "--license", "MIT"), "license 'MIT': expected .*such as mit"),
    "no such snapshot": (("generate", "pretrain@11"), "step-00000011.safetensors was not kept .*snapshots: 10"),
    "no device": (("generate", "--device", "tpu"), "expected auto, cpu or cuda"),
    "top_p": (("generate", "--top-p", "0"), "top_p is 0.0, expected more than 0"),
    "temperature": (("generate", "--temperature", "-1"), "temperature is -1.0, expected 0 or more"),
    "tokens": (("generate", "--tokens", "0"), "tokens is 0, expected at least 1"),
    "no kept model": (
        ("predict", "mnli", "-t", "a", "-t", "b"),
        r"no fine-tuned cell of 'mnli' is made \(tasks with weights: rte\)",
    ),
    "unknown task": (("predict", "rtee", "-t", "a"), "did you mean 'rte'"),
    "one text": (("predict", "rte", "-t", "a"), "rte, example 1: 1 texts, expected 2"),
    "neither": (("predict", "rte"), "give one example with --text"),
    "not tuned": (("predict", "rte", "-t", "a", "--model", "pretrain"), "this model is not fine-tuned, expected rte"),
    "no file": (("perplexity", "no-such-file.txt"), "cannot be read"),
    "stride": (("perplexity", "README.md", "--stride", "99"), "--stride 99: expected 1 to the model's context of 16"),
    "no openai form": (("export", "openai", "finetune[task=rte,seed=1]", "--out", "x"), "3 special tokens"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_user_can_do_wrong(case: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, message = REFUSED[case]
    (tmp_path / "README.md").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        gpt1(*words, "--store", store)


def test_another_vocabulary_in_a_folder_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "ours", Checkpoint(samples.model(), samples.vocabulary()))
    for file in (*(tmp_path / "ours").glob("encoder*"), *(tmp_path / "ours").glob("vocab*")):
        file.unlink()
    Vocabulary.from_merges(list("abc"), []).save(tmp_path / "ours")
    with pytest.raises(UserError, match=r"60 vocabulary rows, encoder_bpe_0\.json 8 tokens; this is another model's vocabulary"):
        gpt1("generate", tmp_path / "ours")


def test_a_given_model_takes_the_place_of_pretrain_and_vocabulary(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "ours", Checkpoint(samples.model(context=32), samples.vocabulary()))
    folder = tmp_path / "RTE"
    folder.mkdir()
    rows = "".join(f"{n}\tthe cat {n} ate.\tit ate.\t{'entailment' if n % 3 else 'not_entailment'}\n" for n in range(32))
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text("index\tsentence1\tsentence2\tlabel\n" + rows)
    (tmp_path / "w.yaml").write_text(
        f"""
stages:
  published:
    uses: given
    with: {{checkpoint: {tmp_path / "ours"}}}
  task_data:
    with: {{task: rte, source: {tmp_path}}}
  finetune:
    needs: [published, task_data]
    with: {{task: rte, epochs: 1, batch: 8}}
  export:
    needs: [published, finetune]
  report:
    needs: [published, task_data, finetune, export]
"""
    )
    plan = plan_of(tmp_path / "w.yaml", tmp_path / "store")
    assert run_inline(plan) == ["published", "task_data", "finetune", "export", "report"]
    found = plan.store.artifact("export", plan.entries["export"].fingerprint)
    assert found is not None
    assert found.summary["models"] == {"hf": "gpt1", "tuned/finetune": "gpt1-rte"}
    assert gpt1("predict", "rte", "-t", "the cat", "-t", "it ate", "--store", tmp_path / "store").startswith("1\t")
    for name in ("published", "pretrain"):
        assert gpt1("generate", name, "-p", "the", "-n", 3, "--store", tmp_path / "store").startswith("the ")
    again = plan_of(tmp_path / "w.yaml", tmp_path / "store")
    assert not again.to_run
    save_checkpoint(tmp_path / "ours", Checkpoint(samples.model(9, context=32), samples.vocabulary()))
    stale = plan_of(tmp_path / "w.yaml", tmp_path / "store")
    assert {entry.cell.id for entry in stale.to_run} == {"published", "finetune", "export", "report"}


def test_a_folder_without_weights_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(f"stages:\n  given:\n    with: {{checkpoint: {tmp_path}}}\n")
    with pytest.raises(UserError, match=r"has no model\.safetensors; give a folder that `gpt1 import` has written"):
        plan_of(tmp_path / "w.yaml", tmp_path / "store")
